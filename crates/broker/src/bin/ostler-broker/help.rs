//! The texts of `--help` and `--version`.

/// What `--version` prints first: harnesses parse it to learn which features they may expect.
pub(crate) fn version(name: &str) -> String {
    let mut text = format!("nats-server: v{}", ostler_broker::COMPATIBLE_VERSION);
    if name != "nats-server" {
        text.push_str(&format!("\nostler-broker: v{}", env!("CARGO_PKG_VERSION")));
    }
    text
}

pub(crate) fn usage(name: &str) -> String {
    format!(
        "
Usage: {name} [options]
       {name} check <dir> [--repair] [--json]

A NATS server with nats-server's options and configuration files. Core NATS and JetStream on one node.

Server options:
    -a, --addr, --net <host>         Address to listen on (default: 0.0.0.0)
    -p, --port <port>                Port for clients, -1 for any free one (default: 4222)
    -n, --name
        --server_name <name>         Name of the server
    -P, --pid <file>                 File to write the process id to
    -m, --http_port <port>           Port for HTTP monitoring, on loopback
    -c, --config <file>              Configuration file; flags override it
    -t                               Check the configuration and exit
    -sl,--signal <signal>[=<pid>]    Send a signal to a server (ldm, reload, reopen, stop, quit, term);
                                     <pid> is a process id or the path of a pid file
        --ports_file_dir <dir>       Directory for a file with the addresses taken (<executable>_<pid>.ports)
        --shards <number>            Reactor threads (default: 1, on four cores or more 2)

Logging options:
    -l, --log <file>                 File to log to (default: stderr)
    -T, --logtime                    Times in the log (default: true)
        --logtime_utc                Times in UTC (default: false)
    -D, --debug                      Log what the server does
    -V, --trace                      Log it in more detail (not the protocol)
    -DV                              Both

Authorization options:
        --user <user>                User required of clients
        --pass <password>            Its password, plain or as a bcrypt hash
        --auth <token>               Token required of clients, plain or as a bcrypt hash

TLS options:
        --tls                        Encrypt connections
        --tlscert <file>             Certificate of the server
        --tlskey <file>              Its private key
        --tlsverify                  Encrypt, and require certificates of clients
        --tlscacert <file>           Certificates that those are checked against

JetStream options:
    -js,--jetstream                  Streams, key-value and object stores
    -sd,--store_dir <dir>            Where streams are kept (default: nats in the directory for temporary files)
        --durability <class>         What an acknowledgement promises where a stream does not say: that the message
                                     survives a power cut (group, the default), the end of this process (process),
                                     or nothing yet (async)
    check <dir>                      Look for damage in streams on disk without a server; see check --help

Common options:
    -h, --help                       This text
    -v, --version                    The version, as nats-server prints it
        --help_tls                   About TLS

Signals: SIGTERM, SIGINT end it; SIGHUP reloads the configuration; SIGUSR1 reopens the log; SIGUSR2 lets it end as a
lame duck, sending its clients away one after the other.
"
    )
}

pub(crate) fn about_tls(name: &str) -> String {
    format!(
        "
TLS needs a certificate and its private key, both as PEM:

    {name} --tls --tlscert server.pem --tlskey server-key.pem

With --tlsverify and --tlscacert ca.pem clients need a certificate of that authority too. A test certificate:

    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \\
      -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout server-key.pem -out server.pem
"
    )
}
