//! Who is let in, and what is written down then.
//!
//! ```text
//!  token fits --request signable--> invitation used up --> member, key --> registry --> keys read anew --> answered
//! ```
//!
//! Each arrow is durable before the next. A crash on the way costs a new invitation, never two servers for one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use certs::{Authority, AuthorityError, JoinAnswer, JoinError, JoinRequest, UnixTime, Who};
use tokio::sync::Mutex;
use zones::Domain;

use crate::invite::{Invite, InviteError, Member};
use crate::keys::{self, KeyRing, KeysError};
use crate::random;
use crate::reconcile::Step;
use crate::registry::{Proposal, Registry, SubmitError};
use crate::trust::{self, TrustError};

/// Lets servers in.
pub struct Desk {
    /// The librarian's directory.
    pub dir: PathBuf,
    /// The pool's domain.
    pub domain: Domain,
    /// Who signs.
    pub authority: Arc<Authority>,
    /// Where members are kept.
    pub registry: Registry,
    /// The keys that a new member is added to.
    pub keys: Arc<KeyRing>,
    /// Address of DNS, as told to members.
    pub dns: SocketAddr,
    /// Address of this service, as told to members.
    pub https: SocketAddr,
    /// One server at a time: an invitation is found and used up in one go.
    pub turn: Mutex<()>,
}

/// Why a server was not let in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdmitError {
    /// The message is malformed.
    #[error(transparent)]
    Message(#[from] JoinError),
    /// The token does not let anybody in.
    #[error(transparent)]
    Invite(#[from] InviteError),
    /// The certificate request cannot be signed.
    #[error(transparent)]
    Request(AuthorityError),
    /// The librarian's own files or keys fail.
    #[error("the librarian cannot keep the new server's key")]
    Keys(#[from] KeysError),
    /// The librarian's own files fail.
    #[error("the librarian cannot read its keys")]
    Trust(#[from] TrustError),
    /// The registry fails.
    #[error("the librarian cannot register the server")]
    Registry(#[from] SubmitError),
}

impl Desk {
    /// Lets a server in.
    ///
    /// # Errors
    ///
    /// [`AdmitError`]; the invitation is used up only if the token and the certificate request were good.
    pub async fn admit(self: &Arc<Self>, request: JoinRequest, now: UnixTime) -> Result<JoinAnswer, AdmitError> {
        let _turn = self.turn.lock().await;
        let desk = Arc::clone(self);
        // Files are written and made durable beside the threads that answer questions.
        let (joined, answer) = off_thread(move || desk.write_down(&request, now)).await?;
        self.registry.submit(Proposal::Reconcile(joined)).await?;
        let keys = Arc::clone(&self.keys);
        off_thread(move || keys.reload()).await?;
        tracing::info!(server = answer.server, "server joined");
        Ok(answer)
    }

    /// Everything up to the registry.
    fn write_down(&self, request: &JoinRequest, now: UnixTime) -> Result<(Step, JoinAnswer), AdmitError> {
        let fields = request.fields()?;
        let invite = Invite::find(&self.dir, &fields.server, &fields.secret, now)?;
        let pool_key = trust::pool_key(&self.dir)?;
        let serial = trust::new_serial();
        let certificate = self
            .authority
            .sign(&Who::Server(invite.server.clone()), fields.request, serial, now)
            .map_err(AdmitError::Request)?;
        invite.consume(&self.dir)?;
        let member = Member {
            server: invite.server.clone(),
            role: invite.role,
            joined: now,
            serial,
        };
        member.write(&self.dir)?;
        let tsig = keys::create(&self.dir, invite.server.as_str(), &random::octets())?;
        let joined = Step::Joined {
            server: invite.server.clone(),
            role: invite.role,
        };
        tracing::info!(server = %invite.server, role = %invite.role, certificate = %serial, "invitation used");
        let answer = JoinAnswer {
            server: invite.server.to_string(),
            domain: self.domain.to_string(),
            dns: self.dns,
            https: self.https,
            certificate,
            authority: self.authority.anchor().pem().to_owned(),
            tsig_key: tsig.to_bind_file().to_string(),
            pool_key: pool_key.to_string(),
        };
        Ok((joined, answer))
    }
}

/// Runs what blocks on a thread of its own.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
