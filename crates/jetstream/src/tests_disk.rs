//! What happens when the disk is full or fails: refusals with their reason, nothing that was acknowledged lost, and
//! everything again when the disk is well again.

use ostler_broker_store::disk::SimulatedDisk;

use crate::bus::Incoming;
use crate::testing::Rig;

const FULL: &str = r#"{"error":{"code":500,"err_code":10047,"description":"insufficient storage resources available"},"stream":"S","seq":0}"#;

fn rig(config: &str) -> (Rig, SimulatedDisk) {
    let disk = SimulatedDisk::new();
    let mut rig = Rig::on(&disk);
    rig.bus.only = Some(vec!["_I".to_owned()]);
    rig.api("STREAM.CREATE.S", &format!(r#"{{"name":"S"{config}}}"#));
    (rig, disk)
}

#[test]
fn a_full_disk_refuses_and_takes_messages_again_when_there_is_space() {
    for class in ["group", "process"] {
        let (mut rig, disk) = rig(&format!(r#","metadata":{{"ostler.durability":"{class}"}}"#));
        assert_eq!(rig.ask("S", "1")[0].payload, r#"{"stream":"S","seq":1}"#);
        disk.set_space(Some(0));
        let refused = rig.ask_with("S", "Nats-Msg-Id: x", "2");
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].payload, FULL);
        assert_eq!(rig.api("STREAM.INFO.S", "")["state"]["messages"], 1, "{class}");
        disk.set_space(None);
        let stored = rig.ask_with("S", "Nats-Msg-Id: x", "2");
        assert_eq!(stored[0].payload, r#"{"stream":"S","seq":2}"#, "what was refused is no duplicate");
    }
}

#[test]
fn a_batch_that_cannot_be_written_is_refused_as_a_whole() {
    let (mut rig, disk) = rig("");
    disk.set_space(Some(0));
    let Rig { jetstream, bus, now, .. } = &mut rig;
    for reply in [&b"_I.1"[..], b"_I.2"] {
        let message = Incoming { subject: b"S", reply, headers: b"", payload: b"x" };
        jetstream.as_mut().unwrap().on_message(&message, *now, bus);
    }
    rig.settle();
    let refused: Vec<_> = rig.bus.take().into_iter().map(|sent| (sent.to, sent.payload)).collect();
    assert_eq!(refused, ["_I.1", "_I.2"].map(|to| (to.to_owned(), FULL.to_owned())));
    assert_eq!(rig.api("STREAM.INFO.S", "")["state"]["last_seq"], 0);
}

#[test]
fn a_message_that_the_disk_did_not_keep_is_refused_and_its_sequence_is_not_used_again() {
    let (mut rig, disk) = rig("");
    rig.ask("S", "1");
    disk.fail_syncs(1);
    let refused = &rig.ask("S", "2")[0].payload;
    assert!(refused.contains(r#""err_code":10077"#), "{refused}");
    let stored = rig.ask("S", "3")[0].payload.clone();
    assert!(stored == r#"{"stream":"S","seq":3}"#, "{stored}");
    assert_eq!(rig.api("STREAM.MSG.GET.S", r#"{"seq":1}"#)["message"]["seq"], 1);
}

#[test]
fn a_removal_that_was_not_written_is_done_when_there_is_space() {
    let (mut rig, disk) = rig(r#","retention":"workqueue""#);
    rig.ask("S", "1");
    rig.api(
        "CONSUMER.CREATE.S.c",
        r#"{"stream_name":"S","config":{"durable_name":"c","ack_policy":"explicit"}}"#,
    );
    let sent = rig.ask("$JS.API.CONSUMER.MSG.NEXT.S.c", "");
    disk.set_space(Some(0));
    assert!(rig.ask(&sent[0].reply, "").is_empty(), "not answered: it may be lost");
    assert_eq!(rig.api("STREAM.INFO.S", "")["state"]["messages"], 1);
    disk.set_space(None);
    rig.ask("S", "2");
    assert_eq!(rig.api("STREAM.INFO.S", "")["state"]["messages"], 1);
    assert_eq!(rig.api("STREAM.INFO.S", "")["state"]["first_seq"], 2);
}

#[test]
fn a_stream_that_cannot_be_created_is_not_there() {
    let disk = SimulatedDisk::new();
    let mut rig = Rig::on(&disk);
    rig.bus.only = Some(vec!["_I".to_owned()]);
    disk.set_space(Some(0));
    let refused = &rig.ask("$JS.API.STREAM.CREATE.S", r#"{"name":"S"}"#)[0].payload;
    assert!(refused.contains(r#""err_code":10047"#), "{refused}");
    disk.set_space(None);
    rig.api("STREAM.CREATE.T", r#"{"name":"T","subjects":["S"]}"#);
}
