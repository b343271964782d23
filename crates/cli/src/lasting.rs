//! A connection that outlasts the daemon: it follows the next one to wherever that listens, and its listeners hear when
//! something may have been missed. It repeats no request.

use std::time::Duration;

use ostler_client::{Client, Connection, Denied, Error as BusError, Message, Options, Subscription, Verb};
use tokio::sync::watch;

use crate::exit::Outcome;
use crate::screen::Screen;

/// Pause between two attempts to connect to a daemon that has written its address but does not listen yet.
const CONNECT_INTERVAL: Duration = Duration::from_millis(100);

/// Replaces the client whenever the daemon has moved, and tells the person when the bus is away and when it is back.
/// Runs until it is dropped.
pub(crate) async fn keep(clients: watch::Sender<Client>, options: Options, screen: Screen) {
    loop {
        let client = clients.borrow().clone();
        client.connected().await;
        let is_moved = tokio::select! {
            () = lost(&client) => false,
            () = client.moved() => true,
        };
        screen.note("the daemon is away; waiting for it");
        if is_moved || !is_back(&client).await {
            clients.send_replace(connect(&options).await);
        }
        screen.note("the daemon is back");
    }
}

async fn lost(client: &Client) {
    // An error means that the connection is closed for good, which is lost too.
    let _ = client.connection().wait_for(|state| *state == Connection::Down).await;
}

/// True when the same connection is there again; false when a new one is needed.
async fn is_back(client: &Client) -> bool {
    let mut connection = client.connection();
    tokio::select! {
        again = connection.wait_for(|state| matches!(state, Connection::Up(_))) => again.is_ok(),
        () = client.moved() => false,
    }
}

async fn connect(options: &Options) -> Client {
    loop {
        match Client::connect(options.clone()).await {
            Ok(client) => return client,
            // It may be gone again; whoever comes next writes its address into the same file.
            Err(_) => tokio::time::sleep(CONNECT_INTERVAL).await,
        }
    }
}

/// What a listener hears.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A message on its subject.
    Message(Message),
    /// It listens again after the bus was away: what was published meanwhile was missed.
    Rejoined,
}

/// A subscription that goes on with the session's next client.
pub(crate) struct Listener {
    filter: String,
    clients: watch::Receiver<Client>,
    connection: watch::Receiver<Connection>,
    denied: watch::Receiver<Vec<Denied>>,
    subscription: Subscription,
    place: Place,
}

/// Where a listener stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It listens on the present client.
    Joined,
    /// Its client is closed for good; only another one helps.
    Closed,
    /// There is another client, and it does not listen there yet.
    Behind,
}

impl Listener {
    /// Listens on the present client.
    pub(crate) async fn join(mut clients: watch::Receiver<Client>, filter: String) -> Outcome<Self> {
        let client = clients.borrow_and_update().clone();
        let subscription = client.subscribe(filter.clone()).await?;
        let (connection, denied) = (client.connection(), client.denied());
        Ok(Self { filter, clients, connection, denied, subscription, place: Place::Joined })
    }

    /// Waits for the next; `None` when there will be no more. Cancel-safe.
    ///
    /// # Errors
    ///
    /// The bus does not permit listening here: nothing would ever come.
    pub(crate) async fn next(&mut self) -> Outcome<Option<Heard>> {
        loop {
            if self.place == Place::Behind {
                let client = self.clients.borrow().clone();
                self.subscription = client.subscribe(self.filter.clone()).await?;
                (self.connection, self.denied) = (client.connection(), client.denied());
                self.place = Place::Joined;
                return Ok(Some(Heard::Rejoined));
            }
            let is_open = self.place == Place::Joined;
            tokio::select! {
                message = self.subscription.next(), if is_open => match message {
                    Some(message) => return Ok(Some(Heard::Message(message))),
                    None => self.place = Place::Closed,
                },
                changed = self.connection.changed(), if is_open => match changed {
                    Ok(()) if matches!(*self.connection.borrow_and_update(), Connection::Up(_)) => {
                        return Ok(Some(Heard::Rejoined));
                    }
                    Ok(()) => {}
                    Err(_) => self.place = Place::Closed,
                },
                denied = refused(&mut self.denied, &self.filter), if is_open => {
                    return Err(BusError::Denied(denied).into());
                },
                changed = self.clients.changed() => match changed {
                    Ok(()) => self.place = Place::Behind,
                    Err(_) => return Ok(None),
                },
            }
        }
    }
}

/// Waits until the bus says that the filter may not be listened on.
async fn refused(denied: &mut watch::Receiver<Vec<Denied>>, filter: &str) -> Denied {
    let is_ours = |denied: &Denied| denied.verb == Verb::Subscribe && denied.subject == filter;
    let found = denied.wait_for(|known| known.iter().any(is_ours)).await;
    match found.ok().and_then(|known| known.iter().find(|denied| is_ours(denied)).cloned()) {
        Some(denied) => denied,
        // The connection is closed for good, which others look after.
        None => std::future::pending().await,
    }
}
