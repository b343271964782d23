//! What went over the bus, kept in order of arrival.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ostler_client::{Client, Message};
use serde::de::DeserializeOwned;

use crate::wait::wait_for;

/// Keeps every message of a subscription from the moment it was made.
#[derive(Debug)]
pub struct Recorder {
    subject: String,
    // Written by the task that reads the subscription, read by the test.
    messages: Arc<Mutex<Vec<Message>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Recorder {
    /// Subscribes; what is published after this returns is kept.
    ///
    /// # Panics
    ///
    /// When the bus refuses.
    pub async fn start(client: &Client, subject: impl ToString) -> Self {
        let subject = subject.to_string();
        let mut subscription = client.subscribe(subject.clone()).await.expect("a subscription");
        client.flush().await.expect("the bus takes the subscription");
        let messages = Arc::new(Mutex::new(Vec::new()));
        let kept = messages.clone();
        let task = tokio::spawn(async move {
            while let Some(message) = subscription.next().await {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(message);
            }
        });
        Self { subject, messages, task }
    }

    /// Everything so far.
    pub fn messages(&self) -> Vec<Message> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything so far that reads as `T`.
    pub fn all<T: DeserializeOwned>(&self) -> Vec<T> {
        self.messages().iter().filter_map(|message| message.json().ok()).collect()
    }

    /// Waits for the first message that reads as `T` and passes `test`, seen already or to come.
    ///
    /// # Panics
    ///
    /// When it does not come within `patience`; what came instead is printed.
    pub async fn first<T: DeserializeOwned>(
        &self,
        what: &str,
        patience: Duration,
        test: impl Fn(&T) -> bool,
    ) -> T {
        let look = async {
            wait_for(what, Duration::from_secs(3600), || {
                std::future::ready(self.all::<T>().into_iter().find(&test))
            })
            .await
        };
        match tokio::time::timeout(patience, look).await {
            Ok(found) => found,
            Err(_) => {
                let seen: Vec<String> = self
                    .messages()
                    .iter()
                    .map(|message| String::from_utf8_lossy(&message.payload).into_owned())
                    .collect();
                panic!("not on {} within {patience:?}: {what}; seen:\n{}", self.subject, seen.join("\n"))
            }
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}
