//! The NATS client protocol without I/O: no socket, no clock, no randomness.
#![forbid(unsafe_code)]
