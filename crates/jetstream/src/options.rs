//! How a JetStream is to be, and what every stream of it needs to know. No defaults of streams: those are in their
//! configuration.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ostler_broker_store::Durability;
use ostler_broker_store::disk::{Disk, RealDisk};

use crate::api::{AccountLimits, Strictness};
use crate::limits::ServerLimits;

/// What of nats-server's JetStream API is known here.
pub const API_LEVEL: u8 = 5;

/// How a JetStream is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory of the streams that are kept in files; created when it is not there.
    pub store_dir: PathBuf,
    /// A second name for the API: `$JS.<domain>.API.>`, and in every acknowledgement.
    pub domain: Option<String>,
    /// What all streams together may use. Default: no limits.
    pub limits: AccountLimits,
    /// What the server allows beside that. Default: no limits.
    pub server: ServerLimits,
    /// Whether unknown fields in requests are refused. Default: they are.
    pub strictness: Strictness,
    /// What a stream in files promises that does not say. Default [`Durability::Group`].
    pub durability: Durability,
    /// The version clients are told, as nats-server's.
    pub version: String,
    /// The server's id, for those who audit the use of the API.
    pub server_id: String,
    /// What the files of streams are on. Default: the operating system's disk.
    pub disk: Arc<dyn Disk>,
    /// Whatever is different at every start: ids are made from it.
    pub seed: u64,
}

impl Options {
    /// The defaults, with streams in `store_dir`.
    pub fn new(store_dir: impl Into<PathBuf>) -> Self {
        Self {
            store_dir: store_dir.into(),
            domain: None,
            limits: AccountLimits::default(),
            server: ServerLimits::default(),
            strictness: Strictness::default(),
            durability: Durability::Group,
            version: "2.15.1".to_owned(),
            server_id: String::new(),
            disk: Arc::new(RealDisk),
            seed: 0,
        }
    }
}

/// What streams and consumers share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) store_dir: PathBuf,
    pub(crate) domain: Option<String>,
    pub(crate) durability: Durability,
    pub(crate) version: String,
    pub(crate) server_id: String,
    pub(crate) disk: Arc<dyn Disk>,
    entropy: Cell<u64>,
}

impl Context {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            store_dir: options.store_dir.clone(),
            domain: options.domain.clone(),
            durability: options.durability,
            version: options.version.clone(),
            server_id: options.server_id.clone(),
            disk: Arc::clone(&options.disk),
            entropy: Cell::new(options.seed),
        }
    }

    /// Where streams are.
    pub(crate) fn streams_dir(&self) -> PathBuf {
        self.store_dir.join("streams")
    }

    /// Where a stream is.
    pub(crate) fn stream_dir(&self, name: &str) -> PathBuf {
        self.streams_dir().join(name)
    }

    /// A number that was not given out before (splitmix64 over the seed).
    pub(crate) fn salt(&self) -> u64 {
        let state = self.entropy.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.entropy.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A name of so many letters and digits.
    pub(crate) fn id(&self, len: usize) -> String {
        const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        (0..len).map(|_| char::from(LETTERS[(self.salt() % 62) as usize])).collect()
    }

    /// What clients are told beside the metadata of their own.
    pub(crate) fn add_metadata(&self, metadata: &mut BTreeMap<String, String>, required: u8) {
        metadata.insert("_nats.ver".to_owned(), self.version.clone());
        metadata.insert("_nats.level".to_owned(), API_LEVEL.to_string());
        metadata.insert("_nats.req.level".to_owned(), required.to_string());
    }
}
