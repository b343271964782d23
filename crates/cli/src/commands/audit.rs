//! `ostler audit` and `ostler audit verify`.

use jiff::tz::TimeZone;
use ostler_client::From;
use ostler_wire::{AUDIT_STREAM, AgentId, AuditEntry, JsonMap, NodeInfo, Subject, Timestamp};

use crate::chain::{After, Check, Noted, Verdict};
use crate::connect::{Places, Session};
use crate::exit::Outcome;
use crate::lasting::Heard;
use crate::render::audit::{heading, line, verdict};
use crate::screen::{Detail, Screen};
use crate::trail::{Kept, Trail, broken, from, no_stream};
use crate::when::{Since, parse_since};

/// Entries shown when nothing says from when on.
const NEWEST_ENTRIES: usize = 50;

/// How often the end of a stream is looked at again before it is said to be missing: a cluster's member may be behind.
const END_LOOKS: u32 = 3;
/// Pause between them.
const END_LOOK_INTERVAL: std::time::Duration = std::time::Duration::from_millis(300);

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "With --json each entry is one line, with its hash and its place in the stream.")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Go on with what happens
    #[arg(short, long)]
    follow: bool,
    /// Only what happened since then: 2h (ago), or 2026-11-20T21:00:00Z; without it, the newest 50
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Since>,
    /// Only what is about this agent
    #[arg(long, value_name = "NAME")]
    agent: Option<AgentId>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Check that nothing was changed, removed or inserted
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Ends with 0 when the audit is intact, with 9 when it is not.\n\
    Keep the last entry and its hash somewhere else and name them with --noted at the next check: then not even who has\n\
    the daemon's database and the stream can change what came before unnoticed.")]
struct VerifyArgs {
    /// An entry that must be there with this hash, as an earlier check printed them; may be repeated
    #[arg(long, value_name = "ENTRY:HASH")]
    noted: Vec<Noted>,
}

pub(crate) async fn run(args: &Args, places: &Places, screen: Screen) -> Outcome {
    match &args.verb {
        Some(Verb::Verify(args)) => verify(args, places, screen).await,
        None => show(args, places, screen).await,
    }
}

async fn show(args: &Args, places: &Places, screen: Screen) -> Outcome {
    let mut session = Session::open(places).await?;
    if args.follow {
        session = session.kept(screen);
    }
    let since = args.since.map(|since| since.resolve(Timestamp::now()));
    let mut trail = Trail::new(&session, args.agent.as_ref(), from(since));
    // Listening comes first, so that nothing falls between what is stored and what comes.
    let live = if args.follow { Some(session.listen(trail.filter()).await?) } else { None };
    let zone = TimeZone::system();
    let mut is_first = true;
    let mut show = |kept: &Kept| -> Outcome {
        if screen.is_json() {
            return screen.json(kept);
        }
        if std::mem::take(&mut is_first) && screen.detail != Detail::Quiet {
            screen.line(heading())?;
        }
        screen.line(line(&kept.entry, &zone))
    };
    if args.since.is_some() {
        while let Some(entries) = trail.entries().await? {
            entries.iter().filter(|kept| kept.is_since(since)).try_for_each(&mut show)?;
        }
    } else {
        trail.newest(NEWEST_ENTRIES).await?.iter().try_for_each(&mut show)?;
    }
    let Some(mut live) = live else {
        if is_first {
            screen.note("nothing happened that the audit tells");
        }
        return Ok(());
    };
    // What is published is only the sign that something is there: what is shown is what the stream keeps.
    while let Some(heard) = live.next().await? {
        let told: Option<AuditEntry> = match heard {
            Heard::Rejoined => None,
            Heard::Message(message) => AuditEntry::read(&message.payload).ok(),
        };
        trail.read_up_to(told.as_ref(), &mut show).await?;
    }
    Ok(())
}

async fn verify(args: &VerifyArgs, places: &Places, screen: Screen) -> Outcome {
    let session = Session::open(places).await?;
    // Asked before the stream is read: what is stored until then must be in it.
    let info: NodeInfo = session.request(&Subject::NodeInfo(session.node.clone()), &JsonMap::new()).await?;
    let stored = info.audit.as_ref().map_or(0, |status| status.stored);
    let chain = info.audit.as_ref().map(|status| status.chain.clone());
    let mut check = Check::new(session.node.clone(), info.audit, args.noted.clone());
    let mut trail = Trail::new(&session, None, From::Sequence(1));
    for look in 1.. {
        loop {
            let page = match trail.page().await {
                // The daemon stored entries, so a stream that is not there is one that was taken away.
                Err(failure) if failure.is_unreadable_audit() && stored > 0 => Vec::new(),
                Err(failure) if failure.is_unreadable_audit() => return Err(no_stream()),
                page => page?,
            };
            if page.is_empty() {
                break;
            }
            page.iter().for_each(|stored| check.take(stored));
        }
        if check.last() >= stored || look >= END_LOOKS {
            break;
        }
        tokio::time::sleep(END_LOOK_INTERVAL).await;
    }
    // Only what was written may be in it, and what is gone is explained by what the stream is like now. Who may not ask
    // for that has less of an answer.
    let stream = session.client().stream_state(AUDIT_STREAM).await.ok().flatten();
    let info: NodeInfo = session.request(&Subject::NodeInfo(session.node.clone()), &JsonMap::new()).await?;
    let after = After {
        stream: stream.map(|stream| stream.of_audit()),
        seq: info.audit.filter(|status| chain.as_ref() == Some(&status.chain)).map(|status| status.seq),
        now: Timestamp::now(),
    };
    conclude(&check.finish(&after), screen)
}

fn conclude(found: &Verdict, screen: Screen) -> Outcome {
    if screen.is_json() {
        screen.json(found)?;
    } else {
        screen.text(&verdict(found, screen.detail == Detail::Quiet))?;
    }
    if found.intact {
        return Ok(());
    }
    let faults = if found.faults_found == 1 { "1 fault" } else { &format!("{} faults", found.faults_found) };
    let message = format!("the audit of {} is not intact: {faults}", found.node);
    Err(broken(message))
}
