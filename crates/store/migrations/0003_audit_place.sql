-- Where the last entry the bus keeps stands: its number in the stream, when it was kept, and when that stream was made.
-- What is missing there went for the stream's limits or was taken, and these tell the two apart.
ALTER TABLE audit_chain ADD COLUMN stored_stream_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE audit_chain ADD COLUMN stored_at INTEGER;
ALTER TABLE audit_chain ADD COLUMN stream_created TEXT NOT NULL DEFAULT '';
