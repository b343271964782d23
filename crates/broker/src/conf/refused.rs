//! The settings of nats-server that this server does not have, each with the reason and what to do instead. A setting
//! that gets support leaves this table.

const ONE_NODE: &str =
    "this server is one node: clustering, gateways and leaf nodes need nats-server; remove it";
const ENCRYPTION: &str =
    "messages are not encrypted on disk; put store_dir on an encrypted file system, and remove it";
const OPERATOR: &str =
    "operator mode (JWT) needs nats-server; list the users under authorization or accounts";
const SHARED: &str =
    "accounts are isolated, nothing crosses them; remove it, or put both sides into one account";
const RUSTLS: &str =
    "TLS 1.2 and 1.3 with their safe cipher suites are always on and cannot be narrowed; remove it";
const IDENTITY: &str = "a client certificate proves access, not a user; use verify with users or nkeys";
const MONITOR_TLS: &str =
    "monitoring is plain HTTP on loopback; use http_port, with a proxy in front for TLS";
const LOGGING: &str = "the log goes to stderr or a file; use log_file, and rotate it with SIGUSR1";
const NO_NEED: &str = "there is no such mechanism here; remove it";

const TABLE: &[(&str, &str)] = &[
    ("cluster", ONE_NODE),
    ("gateway", ONE_NODE),
    ("leaf", ONE_NODE),
    ("leafnode", ONE_NODE),
    ("leafnodes", ONE_NODE),
    ("client_advertise", ONE_NODE),
    ("connect_error_reports", ONE_NODE),
    ("reconnect_error_reports", ONE_NODE),
    ("no_fast_producer_stall", NO_NEED),
    ("no_header_support", "headers are always on; remove it"),
    ("disable_sublist_cache", NO_NEED),
    ("no_sublist_cache", NO_NEED),
    ("mqtt", "MQTT needs nats-server; remove it"),
    ("operator", OPERATOR),
    ("operators", OPERATOR),
    ("roots", OPERATOR),
    ("root", OPERATOR),
    ("resolver", OPERATOR),
    ("account_resolver", OPERATOR),
    ("accounts_resolver", OPERATOR),
    ("resolver_preload", OPERATOR),
    ("resolver_tls", OPERATOR),
    ("resolver_pinned_accounts", OPERATOR),
    ("default_sentinel", OPERATOR),
    ("trusted", OPERATOR),
    ("trusted_keys", OPERATOR),
    ("no_system_account", "the system account is always there and costs nothing; remove it"),
    ("mappings", "subject mappings need nats-server; remove it"),
    ("maps", "subject mappings need nats-server; remove it"),
    ("https", MONITOR_TLS),
    ("https_port", MONITOR_TLS),
    ("http_base_path", MONITOR_TLS),
    ("syslog", LOGGING),
    ("remote_syslog", LOGGING),
    ("log_size_limit", LOGGING),
    ("logfile_size_limit", LOGGING),
    ("log_max_num", LOGGING),
    ("logfile_max_num", LOGGING),
    ("max_traced_msg_len", "the protocol is not traced; remove it"),
    ("trace_verbose", "the protocol is not traced; remove it"),
    ("trace_headers", "the protocol is not traced; remove it"),
    ("prof_port", "profile the process from outside, for instance with perf; remove it"),
    ("profile_port", "profile the process from outside, for instance with perf; remove it"),
    ("prof_block_rate", "profile the process from outside, for instance with perf; remove it"),
    ("max_control_line_size", "the name is max_control_line"),
    ("max_subscription_tokens", "the depth of subjects has a fixed bound; remove it"),
    ("max_sub_tokens", "the depth of subjects has a fixed bound; remove it"),
    ("max_closed_clients", "the number of remembered connections is fixed; remove it"),
    ("server_tags", "tags place streams in a cluster; remove it"),
    ("server_metadata", "metadata describes servers of a cluster; remove it"),
    ("default_js_domain", ONE_NODE),
    ("js_acc_default_domain", ONE_NODE),
    (
        "jetstream.limits.batch",
        "atomic batches have fixed limits, nats-server's defaults: 50 under way in a stream, 1000 messages, 10 s; remove it",
    ),
    ("jetstream.key", ENCRYPTION),
    ("jetstream.ek", ENCRYPTION),
    ("jetstream.encryption_key", ENCRYPTION),
    ("jetstream.prev_key", ENCRYPTION),
    ("jetstream.prev_ek", ENCRYPTION),
    ("jetstream.prev_encryption_key", ENCRYPTION),
    ("jetstream.cipher", ENCRYPTION),
    ("jetstream.tpm", ENCRYPTION),
    ("always_enable_nonce", "the nonce is sent whenever an nkey may answer it; remove it"),
    ("proxies", "the PROXY protocol needs nats-server; remove it"),
    ("proxy_protocol", "the PROXY protocol needs nats-server; remove it"),
    ("ocsp", "OCSP needs nats-server; remove it"),
    ("ocsp_cache", "OCSP needs nats-server; remove it"),
    ("tls.cipher_suites", RUSTLS),
    ("tls.curve_preferences", RUSTLS),
    ("tls.min_version", RUSTLS),
    ("tls.certs", "one certificate serves all names; use cert_file and key_file"),
    ("tls.verify_and_map", IDENTITY),
    ("tls.verify_cert_and_check_known_urls", ONE_NODE),
    ("tls.pinned_certs", "pinning needs nats-server; use verify with a ca_file of your own"),
    ("tls.insecure", "a server does not skip the check of clients; remove it, without verify there is none"),
    ("tls.connection_rate_limit", "max_connections and timeout bound handshakes; remove it"),
    ("tls.cert_store", "certificate stores need nats-server; use cert_file and key_file"),
    ("tls.ocsp_peer", "OCSP needs nats-server; remove it"),
    ("authorization.auth_callout", "auth callout needs nats-server; list the users here"),
    ("authorization.auth_hook", "auth callout needs nats-server; list the users here"),
    ("authorization.proxy_required", "the PROXY protocol needs nats-server; remove it"),
    ("accounts.*.imports", SHARED),
    ("accounts.*.exports", SHARED),
    ("accounts.*.limits", "limits apply to connections, not to accounts; use max_connections and its kin"),
    ("accounts.*.mappings", "subject mappings need nats-server; remove it"),
    ("accounts.*.maps", "subject mappings need nats-server; remove it"),
    ("accounts.*.nkey", "an account's nkey belongs to operator mode; remove it"),
    ("accounts.*.trace_dest", "message tracing needs nats-server; remove it"),
    ("accounts.*.msg_trace", "message tracing needs nats-server; remove it"),
    ("users[].allowed_connection_types", "every user may use every transport; remove it"),
    ("users[].connection_types", "every user may use every transport; remove it"),
    ("users[].proxy_required", "the PROXY protocol needs nats-server; remove it"),
    ("websocket.compression", "frames are not compressed; remove it or set it to false"),
    ("websocket.advertise", ONE_NODE),
    ("websocket.jwt_cookie", "cookies do not log clients in; let them send CONNECT"),
    ("websocket.user_cookie", "cookies do not log clients in; let them send CONNECT"),
    ("websocket.pass_cookie", "cookies do not log clients in; let them send CONNECT"),
    ("websocket.token_cookie", "cookies do not log clients in; let them send CONNECT"),
    ("websocket.no_auth_user", "it applies to all transports; set no_auth_user outside the block"),
    (
        "websocket.authorization",
        "the same users apply to all transports; use authorization outside the block",
    ),
    ("websocket.headers", "extra response headers need nats-server; remove it"),
    ("websocket.ping_interval", "it applies to all transports; set ping_interval outside the block"),
];

/// Why a setting of nats-server is refused, if it is one. Blocks within blocks are joined by points.
pub(super) fn reason(name: &str) -> Option<&'static str> {
    // The TLS block of the web socket has the settings of the other.
    let name = name.strip_prefix("websocket.").filter(|rest| rest.starts_with("tls.")).unwrap_or(name);
    TABLE.iter().find(|(refused, _)| *refused == name).map(|(_, reason)| *reason)
}
