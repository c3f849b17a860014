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

use certs::{
    Authority, AuthorityError, JoinAnswer, JoinError, JoinRequest, Peer, PeerError, RenewAnswer, RenewRequest,
    UnixTime, Who,
};
use tokio::sync::Mutex;
use zones::Domain;

use crate::invite::{Invite, InviteError, Member, member_path};
use crate::keys::{self, KeyRing, KeysError};
use crate::random;
use crate::reconcile::Step;
use crate::registry::{Proposal, Registry, SubmitError};
use crate::revoke::{self, RevokeError};
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
    /// The list of revocations fails.
    #[error("the librarian cannot read who was revoked")]
    Revocations(#[from] RevokeError),
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
        let who = Who::Server(invite.server.clone());
        let issued = revoke::issue_from(&self.dir, &who, now)?;
        let certificate = self
            .authority
            .sign(&who, fields.request, serial, issued)
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

/// Why a certificate is not renewed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenewError {
    /// The message is malformed.
    #[error(transparent)]
    Message(#[from] JoinError),
    /// The certificate that was shown is no longer good.
    #[error("the certificate that asks is no longer good: {0}")]
    Peer(#[from] PeerError),
    /// Nobody of that name is of the pool any more.
    #[error("{owner} is not known here any more: join, or be added, again")]
    Unknown {
        /// Who asked.
        owner: String,
    },
    /// The certificate request cannot be signed.
    #[error(transparent)]
    Request(AuthorityError),
    /// The librarian's own files fail.
    #[error("the librarian cannot read its keys")]
    Keys(#[from] KeysError),
    /// The list of revocations fails.
    #[error("the librarian cannot read who was revoked")]
    Revocations(#[from] RevokeError),
}

impl Desk {
    /// Signs a fresh certificate for whoever shows a good one, with the grants that it has now.
    ///
    /// # Errors
    ///
    /// `RenewError`.
    pub async fn renew(
        self: &Arc<Self>,
        peer: Arc<Peer>,
        request: RenewRequest,
        now: UnixTime,
    ) -> Result<RenewAnswer, RenewError> {
        let desk = Arc::clone(self);
        off_thread(move || {
            let list = revoke::read(&desk.dir)?;
            peer.check(now, &list)?;
            let unknown = || RenewError::Unknown {
                owner: peer.who.owner(),
            };
            let who = match &peer.who {
                Who::Server(server) if member_path(&desk.dir, server).exists() => Who::Server(server.clone()),
                Who::Server(_) | Who::Librarian => return Err(unknown()),
                Who::Client { name, .. } => Who::Client {
                    name: name.clone(),
                    grants: keys::read_grants(&desk.dir, name)?.ok_or_else(unknown)?,
                },
            };
            let serial = trust::new_serial();
            let issued = list.free_from(&who).max(now);
            let certificate = desk
                .authority
                .sign(&who, &request.request, serial, issued)
                .map_err(RenewError::Request)?;
            tracing::info!(owner = who.owner(), certificate = %serial, "certificate renewed");
            Ok(RenewAnswer { certificate })
        })
        .await
    }

    /// The list of revocations, for servers.
    ///
    /// # Errors
    ///
    /// `RenewError`.
    pub async fn revocations(self: &Arc<Self>, peer: Arc<Peer>, now: UnixTime) -> Result<String, RenewError> {
        let desk = Arc::clone(self);
        off_thread(move || {
            let list = revoke::read(&desk.dir)?;
            peer.check(now, &list)?;
            match &peer.who {
                Who::Server(_) => Ok(list.to_json()),
                Who::Librarian | Who::Client { .. } => Err(RenewError::Unknown {
                    owner: peer.who.owner(),
                }),
            }
        })
        .await
    }
}

/// Runs what blocks on a thread of its own.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
