//! What each peer is told: one worker, one zone, no limit that a benchmark would meet.

use std::path::Path;

use super::peers::PeerKind;

/// The zone file's name below a peer's directory.
pub(super) const ZONE_FILE: &str = "obj.zone";

/// A peer's configuration: it serves `zone` (without the last dot) from `dir` at `port` of 127.0.0.1. `key` is the name and
/// base64 secret of a TSIG key that may update it; any local process may transfer it.
#[must_use]
pub(super) fn configuration(kind: PeerKind, dir: &Path, port: u16, zone: &str, key: (&str, &str)) -> String {
    let here = dir.display();
    let (name, secret) = key;
    match kind {
        PeerKind::Knot => format!(
            r#"server:
  rundir: "{here}"
  listen: 127.0.0.1@{port}
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
database:
  storage: "{here}/db"
  journal-db-max-size: 4G
log:
  - target: stderr
    any: warning
key:
  - id: {name}
    algorithm: hmac-sha256
    secret: {secret}
acl:
  - id: change
    key: {name}
    action: update
  - id: copy
    address: 127.0.0.0/8
    action: transfer
zone:
  - domain: {zone}
    storage: "{here}"
    file: {ZONE_FILE}
    zonefile-sync: -1
    journal-content: changes
    journal-max-usage: 1G
    journal-max-depth: 1000000
    acl: [change, copy]
"#
        ),
        PeerKind::Nsd => format!(
            r#"server:
  server-count: 1
  ip-address: 127.0.0.1
  port: {port}
  do-ip6: no
  username: ""
  chroot: ""
  zonesdir: "{here}"
  database: ""
  pidfile: "{here}/nsd.pid"
  xfrdfile: "{here}/xfrd.state"
  zonelistfile: "{here}/zone.list"
  xfrdir: "{here}"
  rrl-ratelimit: 0
  minimal-responses: yes
remote-control:
  control-enable: no
zone:
  name: "{zone}"
  zonefile: "{ZONE_FILE}"
  provide-xfr: 127.0.0.1 NOKEY
"#
        ),
        PeerKind::Bind => format!(
            r#"options {{
  directory "{here}";
  listen-on port {port} {{ 127.0.0.1; }};
  listen-on-v6 {{ none; }};
  pid-file "{here}/named.pid";
  session-keyfile "{here}/session.key";
  recursion no;
  minimal-responses yes;
  dnssec-validation no;
  allow-query {{ any; }};
  allow-transfer {{ 127.0.0.0/8; }};
  notify no;
  update-quota 1000;
}};
controls {{ }};
key "{name}" {{ algorithm hmac-sha256; secret "{secret}"; }};
zone "{zone}" {{
  type primary;
  file "{ZONE_FILE}";
  allow-update {{ key "{name}"; }};
  max-journal-size 1g;
}};
"#
        ),
    }
}
