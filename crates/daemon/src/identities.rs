//! Who may connect to the bus, and what they may say there: least privilege for each.
//!
//! | identity | publishes | subscribes |
//! |---|---|---|
//! | engine | everything | everything |
//! | operator | everything but the audit's and the desired states' subjects, and what changes those streams | everything |
//! | host of agent X | `agent.X.>`, answers | `agent.X.>`, `_INBOX_HOST.X.>` |
//! | agent X | `agent.X.>` but its state, output and definition; `tools.call` | `agent.X.>` but its output, `captain.decision`, `captain.broadcast`, `_INBOX.X.>` |
//!
//! On a bus that is not ours the servers' configuration says all this, and we only hand credential files on.
//!
//! So no agent can read another's traffic or speak in its name, and only its host may publish its state.

use std::path::{Path, PathBuf};

use ostler_broker::{AllowResponses, Credential, Identity, Permissions, Rules, Users};
use ostler_client::{check_credential, create_key, read_public_key};
use ostler_wire::{
    AUDIT_STREAM, AUDIT_SUBJECTS, AgentId, DESIRED_STREAM, DESIRED_SUBJECTS, Subject, of_agent,
};

use crate::{Error, StateDir};

/// Who is let onto the bus, and by whom.
#[derive(Debug, Clone)]
pub(crate) enum Identities {
    /// By us: each agent and each host with a credential of its own.
    Own(Users),
    /// By the servers' configuration: we only hand the credential files on.
    External {
        /// The credential file of hosts; `{id}` stands for the agent's id.
        host: PathBuf,
        /// That of agents.
        agent: Option<PathBuf>,
    },
}

impl Identities {
    /// Lets an agent and its host onto the bus; returns the credential file the agent is told of.
    pub(crate) fn admit(&self, state: &StateDir, agent: &AgentId) -> Result<Option<PathBuf>, Error> {
        match self {
            Self::Own(users) => {
                admit_agent(users, state, agent)?;
                Ok(Some(state.agent_key(agent)))
            }
            Self::External { host, agent: own } => {
                // Made here as well, so that the next daemon may have its own bus and find them.
                key(&state.host_key(agent))?;
                key(&state.agent_key(agent))?;
                check_credential(&of_agent(host, agent))?;
                let own = own.as_ref().map(|path| of_agent(path, agent));
                if let Some(path) = &own {
                    check_credential(path)?;
                }
                Ok(own)
            }
        }
    }

    /// Takes an agent's credentials back, where they are ours to take.
    pub(crate) fn expel(&self, agent: &AgentId) {
        if let Self::Own(users) = self {
            expel_agent(users, agent);
        }
    }
}

/// Admits the daemon, the person and every agent that has a directory; makes the first two credentials when missing.
pub(crate) fn admit_all(state: &StateDir) -> Result<Users, Error> {
    let users = Users::new();
    admit(&users, "engine", &key(&state.engine_key())?, Permissions::all())?;
    let operator = Permissions { publish: Rules::all().deny(only_the_engines()), ..Permissions::all() };
    admit(&users, "operator", &key(&state.operator_key())?, operator)?;
    for agent in state.agent_ids() {
        // Without its keys the directory is a leftover of a launch that did not happen.
        if state.host_key(&agent).exists()
            && state.agent_key(&agent).exists()
            && let Err(error) = admit_agent(&users, state, &agent)
        {
            // One agent's fault must not keep the daemon from all the others.
            tracing::error!(%agent, %error, "the agent is not admitted to the bus");
        }
    }
    Ok(users)
}

/// What is published by the engine alone: audit entries, desired states, and what would change or remove their streams.
/// A person reads them like everybody's; whoever could write them could write the record of what was done. Streams
/// that a person makes are kept from them too: they republish what they take.
pub(crate) fn only_the_engines() -> Vec<String> {
    let mut subjects = vec![AUDIT_SUBJECTS.to_owned(), DESIRED_SUBJECTS.to_owned()];
    for stream in [AUDIT_STREAM, DESIRED_STREAM] {
        let verbs = ["CREATE", "UPDATE", "DELETE", "PURGE", "RESTORE", "MSG.DELETE"];
        subjects.extend(verbs.map(|verb| format!("$JS.API.STREAM.{verb}.{stream}")));
    }
    subjects
}

/// Admits an agent and its host; makes their credentials when missing.
fn admit_agent(users: &Users, state: &StateDir, agent: &AgentId) -> Result<(), Error> {
    let own = Subject::all_of_agent(agent);
    let host = Permissions {
        publish: Rules::allow([own.clone()]),
        subscribe: Rules::allow([own.clone(), format!("{}.>", Subject::host_inbox(agent))]),
        allow_responses: Some(AllowResponses::default()),
    };
    admit(users, &host_name(agent), &key(&state.host_key(agent))?, host)?;
    let not_its_own = [
        Subject::status(agent),
        Subject::output(agent),
        Subject::spawn(agent),
        Subject::remove(agent),
        Subject::shutdown(agent),
        Subject::stop_response(agent),
        // It hears these, so without a denial it could have the engine answer it there, for all agents to hear.
        Subject::CaptainDecision,
        Subject::CaptainBroadcast,
    ];
    let agent_permissions = Permissions {
        publish: Rules::allow([own.clone(), Subject::ToolsCall.to_string()])
            .deny(not_its_own.map(|subject| subject.to_string())),
        // Not its output: who hears that may answer it, and the answer is the acknowledgement.
        subscribe: Rules::allow([
            own,
            Subject::CaptainDecision.to_string(),
            Subject::CaptainBroadcast.to_string(),
            format!("{}.>", Subject::agent_inbox(agent)),
        ])
        .deny([Subject::output(agent).to_string()]),
        // It serves nothing: it asks, and is answered in its inbox.
        allow_responses: None,
    };
    admit(users, &agent_name(agent), &key(&state.agent_key(agent))?, agent_permissions)
}

/// Takes both credentials back; their connections are closed.
fn expel_agent(users: &Users, agent: &AgentId) {
    users.remove(&host_name(agent));
    users.remove(&agent_name(agent));
}

fn host_name(agent: &AgentId) -> String {
    format!("host {agent}")
}

fn agent_name(agent: &AgentId) -> String {
    format!("agent {agent}")
}

fn key(path: &Path) -> Result<String, Error> {
    if !path.exists() {
        return Ok(create_key(path)?);
    }
    if std::fs::metadata(path).is_ok_and(|file| file.len() == 0) {
        // What a crash or a full disk left of one: nobody can use it, so nobody loses it.
        tracing::warn!(path = %path.display(), "an empty credential is replaced by a new one");
        std::fs::remove_file(path).map_err(|source| Error::File {
            path: path.to_owned(),
            verb: "replaced",
            source,
        })?;
        return Ok(create_key(path)?);
    }
    Ok(read_public_key(path)?)
}

fn admit(users: &Users, name: &str, public_key: &str, permissions: Permissions) -> Result<(), Error> {
    let identity = Identity::new(name, Credential::Nkey(public_key.to_owned()), permissions);
    users.set(identity).map_err(|error| Error::Identity(error.to_string()))
}
