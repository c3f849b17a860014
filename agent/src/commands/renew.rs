//! `agent renew`: a fresh certificate for an application.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::objects::print;
use crate::membership::renew_client;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example, once a day:
  agent renew --client ./shop --librarian 192.0.2.1:8443

The certificate lives 7 days; it renews itself with a fresh key and the grants that it has now. Servers renew theirs alone.")]
pub(super) struct Renew {
    /// The application's directory, as `librarian client add` made it
    #[arg(long, value_name = "DIR")]
    client: PathBuf,
    /// The librarian's HTTPS port, where servers join
    #[arg(long, value_name = "IP:PORT")]
    librarian: SocketAddr,
}

impl Renew {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let until = renew_client(&self.client, self.librarian).await?;
        print(format_args!(
            "renewed, good until {}\n",
            humantime_serde::re::humantime::format_rfc3339_seconds(
                std::time::UNIX_EPOCH + std::time::Duration::from_secs(until.as_secs())
            )
        ))
    }
}
