//! JetStream over connections, as clients use it: with the official client, against a server with streams in a
//! directory of its own.

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
