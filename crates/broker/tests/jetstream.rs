//! JetStream over connections, as clients use it: with the official client, against a server with streams in a
//! directory of its own.
#![cfg(test)]

use std::path::Path;
use std::time::Duration;

use async_nats::jetstream::{self, consumer, stream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use ostler_broker::{JetStreamOptions, Server};

const PATIENCE: Duration = Duration::from_secs(20);

fn start(dir: &Path, shards: usize) -> Server {
    let options = JetStreamOptions::new(dir);
    let builder = Server::builder().listen("127.0.0.1:0".parse().unwrap()).allow_anonymous();
    builder.shards(shards).jetstream(options).start().unwrap()
}

async fn connect(server: &Server) -> jetstream::Context {
    jetstream::new(async_nats::connect(server.url()).await.unwrap())
}

async fn shut_down(server: Server) {
    tokio::task::spawn_blocking(move || server.shutdown()).await.unwrap();
}

fn orders() -> stream::Config {
    stream::Config { name: "ORDERS".into(), subjects: vec!["orders.>".into()], ..Default::default() }
}

/// Waits, but not for ever.
async fn soon<F: IntoFuture>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future.into_future()).await.expect("it does not take that long")
}

#[tokio::test]
async fn what_is_published_is_acknowledged_and_fetched() {
    let dir = tempfile::tempdir().unwrap();
    for shards in [1, 2] {
        let server = start(dir.path(), shards);
        // Connections are spread over the shards.
        let (publisher, reader) = (connect(&server).await, connect(&server).await);
        let stream = soon(publisher.create_stream(orders())).await.unwrap();
        for n in 1..=50 {
            let ack = publisher.publish(format!("orders.{n}"), n.to_string().into()).await.unwrap();
            assert_eq!(soon(ack).await.unwrap().sequence, n);
        }
        let pull = consumer::pull::Config { durable_name: Some("all".into()), ..Default::default() };
        soon(stream.create_consumer(pull)).await.unwrap();
        let consumer: consumer::PullConsumer =
            soon(reader.get_consumer_from_stream("all", "ORDERS")).await.unwrap();
        let mut messages = soon(consumer.fetch().max_messages(50).messages()).await.unwrap();
        for n in 1..=50 {
            let message = soon(messages.next()).await.unwrap().unwrap();
            assert_eq!(
                (message.subject.as_str(), &message.payload[..]),
                (&*format!("orders.{n}"), n.to_string().as_bytes())
            );
            soon(message.double_ack()).await.unwrap();
        }
        soon(publisher.delete_stream("ORDERS")).await.unwrap();
        shut_down(server).await;
    }
}

#[tokio::test]
async fn streams_and_consumers_outlast_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), 1);
    let client = connect(&server).await;
    let stream = soon(client.create_stream(orders())).await.unwrap();
    let pull = consumer::pull::Config { durable_name: Some("all".into()), ..Default::default() };
    let consumer = soon(stream.create_consumer(pull)).await.unwrap();
    for n in 1..=10_u64 {
        let ack = client.publish("orders.new", n.to_string().into()).await.unwrap();
        soon(ack).await.unwrap();
    }
    let mut messages = soon(consumer.fetch().max_messages(4).messages()).await.unwrap();
    while let Some(message) = soon(messages.try_next()).await.unwrap() {
        soon(message.double_ack()).await.unwrap();
    }
    shut_down(server).await;
    let server = start(dir.path(), 1);
    let snapshot = server.jetstream().unwrap().expect("it is on");
    assert_eq!((snapshot.account.streams, snapshot.account.consumers), (1, 1));
    assert!(snapshot.recovered.iter().all(|stream| stream.served && stream.findings.is_empty()));
    let client = connect(&server).await;
    let consumer: consumer::PullConsumer =
        soon(client.get_consumer_from_stream("all", "ORDERS")).await.unwrap();
    let mut messages = soon(consumer.fetch().max_messages(10).messages()).await.unwrap();
    let mut seen = Vec::new();
    while let Some(message) = soon(messages.try_next()).await.unwrap() {
        seen.push(message.info().unwrap().stream_sequence);
    }
    assert_eq!(seen, [5, 6, 7, 8, 9, 10]);
    shut_down(server).await;
}

#[tokio::test]
async fn keys_are_put_watched_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    for (round, shards) in [1, 2].into_iter().enumerate() {
        let server = start(dir.path(), shards);
        let (writer, reader) = (connect(&server).await, connect(&server).await);
        let config = jetstream::kv::Config { bucket: "AGENTS".into(), history: 5, ..Default::default() };
        let bucket = match round {
            0 => soon(writer.create_key_value(config)).await.unwrap(),
            _ => soon(writer.get_key_value("AGENTS")).await.unwrap(),
        };
        let seen = soon(reader.get_key_value("AGENTS")).await.unwrap();
        let mut changes = soon(seen.watch_all()).await.unwrap();
        for n in 0..20 {
            soon(bucket.put(format!("agent.{n}"), format!("{round}").into())).await.unwrap();
            let change = soon(changes.next()).await.unwrap().unwrap();
            assert_eq!((change.key, change.value), (format!("agent.{n}"), format!("{round}").into()));
        }
        soon(bucket.delete("agent.3")).await.unwrap();
        assert!(soon(seen.get("agent.3")).await.unwrap().is_none());
        let revision = soon(seen.entry("agent.4")).await.unwrap().unwrap().revision;
        soon(bucket.update("agent.4", "new".into(), revision)).await.unwrap();
        soon(bucket.update("agent.4", "late".into(), revision)).await.expect_err("somebody was faster");
        shut_down(server).await;
    }
}

#[tokio::test]
async fn an_object_of_many_chunks_comes_back_whole() {
    use tokio::io::AsyncReadExt as _;

    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), 2);
    let (writer, reader) = (connect(&server).await, connect(&server).await);
    let config = jetstream::object_store::Config { bucket: "FILES".into(), ..Default::default() };
    let bucket = soon(writer.create_object_store(config)).await.unwrap();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    soon(bucket.put("large", &mut bytes.as_slice())).await.unwrap();
    let bucket = soon(reader.get_object_store("FILES")).await.unwrap();
    let mut read = Vec::new();
    let mut object = soon(bucket.get("large")).await.unwrap();
    soon(object.read_to_end(&mut read)).await.unwrap();
    assert!(read == bytes, "{} bytes of {} came back", read.len(), bytes.len());
    shut_down(server).await;
}

#[tokio::test]
async fn many_messages_are_pushed_in_order_to_a_reader_in_another_shard() {
    const MESSAGES: u64 = 20_000;

    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), 2);
    let (writer, reader) = (connect(&server).await, connect(&server).await);
    let config = stream::Config { storage: stream::StorageType::Memory, ..orders() };
    soon(writer.create_stream(config)).await.unwrap();
    let consumer =
        consumer::push::OrderedConfig { deliver_subject: "_INBOX.in.order".into(), ..Default::default() };
    let stream = soon(reader.get_stream("ORDERS")).await.unwrap();
    let mut messages = soon(soon(stream.create_consumer(consumer)).await.unwrap().messages()).await.unwrap();
    for n in 1..=MESSAGES {
        soon(writer.publish("orders.new", vec![b'x'; (n % 300) as usize].into())).await.unwrap();
    }
    for n in 1..=MESSAGES {
        let message = soon(messages.next()).await.unwrap().unwrap();
        assert_eq!(message.info().unwrap().stream_sequence, n);
        assert_eq!(message.payload.len() as u64, n % 300);
    }
    shut_down(server).await;
}

#[tokio::test]
async fn clients_come_back_after_a_restart_on_the_same_port() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), 1);
    let address = server.local_addr();
    let client = connect(&server).await;
    soon(client.create_stream(orders())).await.unwrap();
    shut_down(server).await;
    let options = JetStreamOptions::new(dir.path());
    let builder = Server::builder().listen(address).allow_anonymous().jetstream(options);
    let server = builder.start().unwrap();
    // It connects again by itself; what is asked meanwhile may be lost.
    let again = async {
        loop {
            if let Ok(ack) = client.publish("orders.new", "x".into()).await
                && let Ok(ack) = ack.await
            {
                return ack.sequence;
            }
        }
    };
    assert!(soon(again).await >= 1);
    shut_down(server).await;
}
