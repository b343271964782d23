//! Users, their credentials and permissions, from texts in memory. Which are valid was asked of nats-server 2.15.

use std::time::Duration;

use super::tests::settings;
use super::*;
use crate::permissions::{AllowResponses, Rules};

#[test]
fn users_and_their_credentials() {
    let hash = "$2a$11$3kIDaCxw.Glsl1.u5nKa6eUnNDLV5HV9tIuUp7EHhMt6Nm9myW1aS";
    let nkey = "UAFHG6FUD2UU4SDFVAFUL5LDFO2XM4WYM76UNXTPJYJK7EEMYRBHT2VE";
    let read = settings(&format!(
        "authorization {{users: [\n{{user: a, password: b}}\n{{user: c, pass: {hash}}}\n{{nkey: {nkey}}}\n]}}\n\
         accounts {{A {{users: [{{user: d, password: e}}]}}, $SYS {{users: [{{user: f, password: g}}]}}}}"
    ));
    let shown: Vec<(&str, &Credential, &str)> = read
        .identities
        .iter()
        .map(|identity| (identity.name.as_str(), &identity.credential, identity.account.as_str()))
        .collect();
    let password =
        |user: &str, password: &str| Credential::Password { user: user.into(), password: password.into() };
    assert_eq!(
        shown,
        [
            ("a", &password("a", "b"), "$G"),
            ("c", &Credential::BcryptPassword { user: "c".into(), hash: hash.into() }, "$G"),
            (nkey, &Credential::Nkey(nkey.into()), "$G"),
            ("d", &password("d", "e"), "A"),
            ("f", &password("f", "g"), "$SYS"),
        ]
    );
    let token = settings(&format!("authorization {{token: {hash}}}"));
    assert_eq!(token.identities[0].credential, Credential::BcryptToken(hash.into()));
}

#[test]
fn what_permissions_leave_out_is_permitted() {
    let permissions = |text: &str| {
        let read =
            settings(&format!("authorization {{users: [{{user: a, password: b, permissions {{{text}}}}}]}}"));
        read.identities[0].permissions.clone()
    };
    assert_eq!(permissions(""), crate::Permissions::all());
    assert_eq!(permissions("publish: x").publish, Rules::allow(["x"]));
    assert_eq!(permissions("publish: x").subscribe, Rules::all());
    assert_eq!(permissions("pub: [x, y.>]").publish, Rules::allow(["x", "y.>"]));
    assert_eq!(permissions("subscribe: {deny: [\"s.>\"]}").subscribe, Rules::all().deny(["s.>"]));
    assert_eq!(
        permissions("sub: {allow: \"a.* q\", deny: b}").subscribe,
        Rules::allow(["a.* q"]).deny(["b"])
    );
}

#[test]
fn allowed_responses_take_the_place_of_publishing_everything() {
    let permissions = |text: &str| {
        let read =
            settings(&format!("authorization {{users: [{{user: a, password: b, permissions {{{text}}}}}]}}"));
        read.identities[0].permissions.clone()
    };
    let some = |max, seconds| Some(AllowResponses { max, ttl: Duration::from_secs(seconds) });
    let bare = permissions("allow_responses: true");
    assert_eq!((bare.publish, bare.allow_responses), (Rules::none(), some(1, 120)));
    let both = permissions("publish: {allow: x, deny: y}, allow_responses: {max: 5, expires: \"1m\"}");
    assert_eq!((both.publish, both.allow_responses), (Rules::allow(["x"]).deny(["y"]), some(5, 60)));
    let denied = permissions("publish: {deny: y}, allow_responses: {max: -1}");
    assert_eq!((denied.publish, denied.allow_responses), (Rules::none().deny(["y"]), some(u32::MAX, 120)));
    assert_eq!(permissions("allow_responses: false"), crate::Permissions::all());
}

#[test]
fn default_permissions_are_for_those_without_their_own() {
    let read = settings(
        "authorization {default_permissions {publish: d}\n\
         users: [{user: a, password: b}, {user: c, password: d, permissions {publish: own}}]}",
    );
    assert_eq!(read.identities[0].permissions.publish, Rules::allow(["d"]));
    assert_eq!(read.identities[1].permissions.publish, Rules::allow(["own"]));
}
