//! Where connections come from: the listeners, and pipes of this process. Each is given to the shard that has the
//! fewest; what is said on them is the shard's business.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ostler_broker_proto::codec::write_err;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::auth::Entry;
use crate::shard::inbox::Envelope;
use crate::shared::Shared;
use crate::transport::pipe::End;

/// How long a client that is turned away may take to fetch the reason.
const TURN_AWAY_MAX: Duration = Duration::from_secs(2);

/// A connection on its way to its shard.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) carrier: Carrier,
    pub(crate) peer: SocketAddr,
    /// Who it is, where this process vouches for that.
    pub(crate) trusted: Option<Arc<Entry>>,
}

/// What carries it. The runtime of another thread cannot take a tokio stream; the way through std is the same for all.
#[derive(Debug)]
pub(crate) enum Carrier {
    /// A socket of the client listener.
    Client(std::net::TcpStream),
    /// The server's end of a pipe.
    Pipe(End),
}

/// Accepts connections and gives each to a shard.
pub(crate) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Dropping the listener closes it.
            () = shared.until_doors_close() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: it passes when somebody hangs up.
                tracing::error!(%error, "cannot accept a connection; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(shard) = shared.admit() else {
            tracing::warn!(%peer, "maximum connections exceeded");
            tokio::task::spawn_local(turn_away(stream));
            continue;
        };
        match stream.into_std() {
            Ok(stream) => {
                let incoming = Incoming { carrier: Carrier::Client(stream), peer, trusted: None };
                shared.shards[shard].inbox.push(Envelope::Connection(Box::new(incoming)));
            }
            Err(error) => {
                tracing::warn!(%peer, %error, "cannot hand a connection over");
                shared.dismiss(shard);
            }
        }
    }
}

/// Gives the server's end of a pipe to a shard; returns whether there was room for one more connection.
pub(crate) fn admit_pipe(shared: &Shared, end: End, trusted: Option<Arc<Entry>>) -> bool {
    let Some(shard) = shared.admit() else {
        tracing::warn!("maximum connections exceeded by an in-process connection");
        return false;
    };
    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let incoming = Incoming { carrier: Carrier::Pipe(end), peer, trusted };
    shared.shards[shard].inbox.push(Envelope::Connection(Box::new(incoming)));
    true
}

async fn turn_away(stream: TcpStream) {
    let mut words = Vec::new();
    write_err(&mut words, "maximum connections exceeded");
    let _ = timeout(TURN_AWAY_MAX, crate::shard::tasks::say_last(stream, words)).await;
}
