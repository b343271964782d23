//! A real disk that is full: a file system of a few megabytes under a real server. Needs the right to mount one.
#![cfg(test)]
#![cfg(all(target_os = "linux", feature = "bin"))]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ostler-broker");
const DEADLINE: Duration = Duration::from_secs(20);
const PAYLOAD: usize = 20_000;

/// A small file system, gone when this is dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where mounting is not permitted.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open there is about to end.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

struct Running {
    child: Child,
    ports: PathBuf,
}

impl Running {
    fn start(dir: &Path, ports: &Path) -> Self {
        let child = Command::new(PROGRAM)
            .args(["-a", "127.0.0.1", "-p", "-1", "-js", "-sd"])
            .arg(dir)
            .arg("--ports_file_dir")
            .arg(ports)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { ports: ports.join(format!("ostler-broker_{}.ports", child.id())), child }
    }

    async fn streams(&mut self) -> jetstream::Context {
        let started = Instant::now();
        loop {
            let ports =
                fs::read(&self.ports).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
            if let Some(url) = ports.as_ref().and_then(|ports| ports["nats"][0].as_str()) {
                return jetstream::new(async_nats::connect(url).await.unwrap());
            }
            assert!(self.child.try_wait().unwrap().is_none(), "it ended at once");
            assert!(started.elapsed() < DEADLINE, "it does not begin to serve");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The sequence a message got, or why none.
async fn publish(js: &jetstream::Context, subject: &str, payload: Vec<u8>) -> Result<u64, String> {
    let ack = js.publish(subject.to_owned(), payload.into()).await.map_err(|error| error.to_string())?;
    ack.await.map(|ack| ack.sequence).map_err(|error| format!("{error:?}"))
}

fn payload(number: u64) -> Vec<u8> {
    // Not the same twice, and nothing that a file system could store in less.
    let mut rng = fastrand::Rng::with_seed(number);
    (0..PAYLOAD).map(|_| rng.u8(..)).collect()
}

#[tokio::test]
async fn a_full_disk_refuses_loses_nothing_and_recovers_by_itself() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: mounting a file system is not permitted here; run it as root");
        return;
    };
    let ports = tempfile::tempdir().unwrap();
    let mut server = Running::start(disk.path(), ports.path());
    let js = server.streams().await;
    for (name, storage) in [("FILE", stream::StorageType::File), ("MEMORY", stream::StorageType::Memory)] {
        let config = stream::Config { name: name.into(), storage, ..Default::default() };
        js.create_stream(config).await.unwrap();
    }
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 1 << 20]).unwrap();

    // Until it is full, and then some.
    let (mut stored, mut refused) = (0, 0);
    while refused < 20 {
        match publish(&js, "FILE", payload(stored + 1)).await {
            Ok(seq) => {
                stored += 1;
                assert_eq!(seq, stored);
            }
            Err(reason) => {
                assert!(reason.contains("10047") || reason.contains("InsufficientStorage"), "{reason}");
                refused += 1;
                assert_eq!(publish(&js, "MEMORY", b"lives".to_vec()).await, Ok(refused));
            }
        }
    }
    assert!(stored > 100, "only {stored} messages fitted");
    let mut file = js.get_stream("FILE").await.unwrap();
    assert_eq!(file.info().await.unwrap().state.messages, stored);

    // Space returns, and nobody tells the server.
    fs::remove_file(&ballast).unwrap();
    let started = Instant::now();
    while publish(&js, "FILE", payload(stored + 1)).await.is_err() {
        assert!(started.elapsed() < DEADLINE, "it does not recover");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stored += 1;
    drop(server);

    let mut server = Running::start(disk.path(), ports.path());
    let js = server.streams().await;
    let file = js.get_stream("FILE").await.unwrap();
    assert_eq!(file.cached_info().state.messages, stored);
    for seq in 1..=stored {
        assert!(file.get_raw_message(seq).await.unwrap().payload == payload(seq), "message {seq} is another");
    }
}
