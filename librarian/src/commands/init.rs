//! `librarian init`.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, bail};
use certs::{Authority, UnixTime};
use zones::Domain;

use crate::config;
use crate::daemon::REGISTRY_FILE;
use crate::files::{self, Readable};
use crate::registry::{self, Registry};
use crate::{keys, random, trust};

/// Makes a pool. The settings come last: without them there is no pool, and `init` may be repeated.
pub(super) fn init(dir: &Path, domain: &Domain, dns: SocketAddr, https: SocketAddr) -> anyhow::Result<()> {
    if dir.join(config::FILE).exists() {
        bail!(
            "there is a pool in {} already: choose another directory, or run this one with `librarian run --dir {}`",
            dir.display(),
            dir.display()
        );
    }
    for folder in ["", "ca", "keys", "servers", "invites", "clients"] {
        files::make_dir(&dir.join(folder))?;
    }
    let authority =
        Authority::create(domain, trust::new_serial(), UnixTime::now()).context("make the pool's authority")?;
    files::write(&trust::key_path(dir), authority.key_pem().as_bytes(), Readable::Owner)?;
    files::write(
        &trust::certificate_path(dir),
        authority.anchor().pem().as_bytes(),
        Readable::All,
    )?;
    let pool_key = random::octets::<{ trust::POOL_KEY_OCTETS }>();
    let pool_key = format!("{}\n", data_encoding::HEXLOWER.encode(&pool_key));
    files::write(&trust::pool_key_path(dir), pool_key.as_bytes(), Readable::Owner)?;
    keys::create(dir, keys::ADMIN, &random::octets())?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let registry =
        Registry::open(&dir.join(REGISTRY_FILE), domain, registry::Settings::default()).context("make the registry")?;
    runtime.block_on(registry.close());
    files::write(
        &dir.join(config::FILE),
        config::template(domain, dns, https).as_bytes(),
        Readable::All,
    )?;
    super::say(&format!(
        "made the pool {domain} in {dir}
  settings     {dir}/{settings}
  authority    {dir}/ca/ca.pem, fingerprint {fingerprint}
  admin key    {dir}/keys/admin.key (for nsupdate -k and dig -k)
Keep ca/ca.key, pool.key and keys/ secret, and back them up.
next: librarian run --dir {dir}
      librarian invite s1 --dir {dir}",
        dir = dir.display(),
        settings = config::FILE,
        fingerprint = authority.anchor().fingerprint(),
    ))
}
