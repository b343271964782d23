//! JetStream over connections while the disk does not do what it should: it is slow, it fails, it panics.
#![cfg(test)]

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use ostler_broker::{JetStreamOptions, Server};
use ostler_broker_store::disk::{Disk, DiskFile, RealDisk};

const PATIENCE: Duration = Duration::from_secs(20);

/// A real disk that can be held: syncs then wait. It panics when it is told to.
#[derive(Debug, Clone, Default)]
struct HeldDisk {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    held: Mutex<bool>,
    changed: Condvar,
    panics_in_sync: AtomicBool,
    panics_in_write: AtomicBool,
}

impl HeldDisk {
    fn hold(&self, held: bool) {
        *self.state.held.lock().unwrap() = held;
        self.state.changed.notify_all();
    }
}

#[derive(Debug)]
struct HeldFile {
    file: Arc<dyn DiskFile>,
    state: Arc<State>,
}

impl DiskFile for HeldFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        assert!(!self.state.panics_in_write.load(Ordering::Relaxed), "what a disk never should do");
        self.file.write_at(bytes, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn sync_data(&self) -> io::Result<()> {
        assert!(!self.state.panics_in_sync.load(Ordering::Relaxed), "what a disk never should do");
        let held = self.state.held.lock().unwrap();
        drop(self.state.changed.wait_while(held, |held| *held).unwrap());
        self.file.sync_data()
    }
}

impl Disk for HeldDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = RealDisk.open(path, create)?;
        Ok(Arc::new(HeldFile { file, state: Arc::clone(&self.state) }))
    }
    fn open_read_only(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.open_read_only(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir(dir)
    }
    fn is_dir(&self, dir: &Path) -> bool {
        RealDisk.is_dir(dir)
    }
    fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list_dirs(dir)
    }
    fn rename_dir(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename_dir(from, to)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.remove_dir(dir)
    }
    fn remove_tree(&self, dir: &Path) -> io::Result<()> {
        RealDisk.remove_tree(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        RealDisk.unlink(path)
    }
}

fn start(dir: &Path, disk: &HeldDisk, shards: usize) -> Server {
    let mut options = JetStreamOptions::new(dir);
    options.disk = Arc::new(disk.clone());
    let builder = Server::builder().listen("127.0.0.1:0".parse().unwrap()).allow_anonymous();
    // A quarter of it is what answers that wait may take.
    builder.shards(shards).max_pending(4 << 20).jetstream(options).start().unwrap()
}

async fn soon<F: IntoFuture>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future.into_future()).await.expect("it does not take that long")
}

async fn shut_down(server: Server) {
    tokio::task::spawn_blocking(move || server.shutdown()).await.unwrap();
}

async fn stream_on(server: &Server) -> jetstream::Context {
    let client = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let config = stream::Config { name: "S".into(), subjects: vec!["s".into()], ..Default::default() };
    soon(client.create_stream(config)).await.unwrap();
    client
}

#[tokio::test]
async fn nothing_is_acknowledged_before_the_disk_has_it() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), HeldDisk::default());
    let server = start(dir.path(), &disk, 1);
    let client = stream_on(&server).await;
    disk.hold(true);
    let mut ack = soon(client.publish("s", "1".into())).await.unwrap().into_future();
    // The server is there for others meanwhile, and for questions about the very stream.
    let other = async_nats::connect(server.url()).await.unwrap();
    soon(other.flush()).await.unwrap();
    assert_eq!(soon(client.get_stream("S")).await.unwrap().cached_info().state.messages, 1);
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut ack).await.is_err());
    disk.hold(false);
    assert_eq!(soon(ack).await.unwrap().sequence, 1);
    shut_down(server).await;
}

/// Publishes without reading answers until the server takes no more, and says how many messages that were.
async fn flood(server: &Server, name: &str) -> usize {
    use tokio::io::AsyncWriteExt as _;
    let mut socket = tokio::net::TcpStream::connect(server.local_addr()).await.unwrap();
    let frame = format!("PUB s {name}.{} 1\r\nx\r\n", "y".repeat(100)).repeat(100);
    socket.write_all(b"CONNECT {\"verbose\":false}\r\n").await.unwrap();
    let mut messages = 0;
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(500), socket.write_all(frame.as_bytes())).await
    {
        written.unwrap();
        messages += 100;
        assert!(messages < 2_000_000, "the server takes everything");
    }
    messages
}

#[tokio::test]
async fn publishers_wait_while_the_disk_is_slow_and_go_on_afterwards() {
    for shards in [1, 2] {
        let (dir, disk) = (tempfile::tempdir().unwrap(), HeldDisk::default());
        let server = start(dir.path(), &disk, shards);
        let client = stream_on(&server).await;
        disk.hold(true);
        let (one, other) = tokio::join!(flood(&server, "one"), flood(&server, "other"));
        assert!(one > 0 && other > 0);
        disk.hold(false);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ack = soon(soon(client.publish("s", "z".into())).await.unwrap());
            if let Ok(ack) = ack.await {
                assert!(ack.sequence > 1);
                break;
            }
            assert!(Instant::now() < deadline, "the server does not go on");
        }
        shut_down(server).await;
    }
}

#[tokio::test]
async fn a_panic_over_a_stream_ends_the_server() {
    for (of, shards) in [("sync", 1), ("sync", 2), ("write", 1), ("write", 2)] {
        let (dir, disk) = (tempfile::tempdir().unwrap(), HeldDisk::default());
        let panics = if of == "sync" { &disk.state.panics_in_sync } else { &disk.state.panics_in_write };
        let server = start(dir.path(), &disk, shards);
        let (_first, client) = (stream_on(&server).await, stream_on(&server).await);
        panics.store(true, Ordering::Relaxed);
        let _ack = soon(client.publish("s", "1".into())).await.unwrap();
        let deadline = Instant::now() + PATIENCE;
        while server.is_running() {
            assert!(Instant::now() < deadline, "it says that it runs after a {of}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panics.store(false, Ordering::Relaxed);
        shut_down(server).await;
        let server = start(dir.path(), &disk, 1);
        assert_eq!(server.jetstream().unwrap().expect("it is on").account.streams, 1);
    }
}

#[tokio::test]
async fn a_shutdown_waits_for_the_disk_and_tells_publishers() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), HeldDisk::default());
    let server = start(dir.path(), &disk, 1);
    let client = stream_on(&server).await;
    disk.hold(true);
    let ack = soon(client.publish("s", "1".into())).await.unwrap().into_future();
    soon(client.get_stream("S")).await.unwrap();
    let other = async_nats::connect(server.url()).await.unwrap();
    let ending = tokio::spawn(shut_down(server));
    // Who asks meanwhile is served.
    for _ in 0..100 {
        soon(other.flush()).await.unwrap();
    }
    disk.hold(false);
    assert_eq!(soon(ack).await.unwrap().sequence, 1);
    soon(ending).await.unwrap();
}
