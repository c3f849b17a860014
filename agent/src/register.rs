//! What the librarian was told and what it answered: registers read and changed by real DNS.
//!
//! Specification: RFC 2136 (updates), RFC 8945 (TSIG), DESIGN.md sections 5 and 7.

mod ask;
mod peers;
mod updater;

use std::net::SocketAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use zones::has::Has;
use zones::tsig::TsigKey;
use zones::update::{self, RegisterChange};
use zones::want::{PoolName, Want, Wish};
use zones::{Address, Domain, Register, ServerName};

use crate::clock::BootInstant;
use ask::{Answered, Asker};
pub use peers::{Peer, PeerError};
use peers::Peers;
use updater::Updater;

/// A register as the librarian showed it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RegisterRead {
    /// When the question was sent: the answer is at least as fresh as this.
    pub asked_at: BootInstant,
    /// The register; `None` if there is none under this name. Its address may differ by case from the one asked for.
    pub register: Option<Register>,
}

/// What became of a change of a register, as far as this agent knows. Only `Done` settles anything (DESIGN.md section 7).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Changed {
    /// A signed reply says that it is durable.
    Done,
    /// A signed reply says no. An earlier sending may have landed all the same: read the register.
    Refused {
        /// The reply's code.
        rcode: ResponseCode,
        /// The librarian's words, or the code's meaning.
        why: String,
        /// Earlier sendings of this change that got no reply, and may still land.
        unanswered: u32,
    },
    /// No reply came within all sendings: read the register.
    Unknown,
}

/// The librarian did not answer in time.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the librarian at {librarian} does not answer: {why}")]
pub struct Unreachable {
    /// Its DNS address.
    pub librarian: SocketAddr,
    /// What went wrong last.
    pub why: String,
}

/// What the controller wants of this server, as it answered one round of questions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wishes {
    /// When the first of the questions was sent.
    pub asked_at: BootInstant,
    /// Role, targets, plan; `None` before the controller has said anything.
    pub want: Option<Want>,
    /// Wishes for single objects.
    pub todos: Vec<Wish>,
}

/// The librarian as an agent sees it: signed questions and updates over DNS.
#[derive(Debug)]
pub struct Registers {
    domain: Domain,
    me: ServerName,
    asker: Asker,
    updater: Updater,
    peers: Peers,
}

impl Registers {
    /// Speaks to the librarian at `librarian` as `me`, whose key is `key`. Needs a tokio runtime.
    #[must_use]
    pub fn new(domain: Domain, me: ServerName, librarian: SocketAddr, key: TsigKey) -> Registers {
        Registers {
            updater: Updater::start(domain.clone(), librarian, key.clone()),
            asker: Asker::new(librarian, key),
            peers: Peers::new(domain.clone()),
            domain,
            me,
        }
    }

    /// The pool's domain.
    #[must_use]
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// This server.
    #[must_use]
    pub fn me(&self) -> &ServerName {
        &self.me
    }

    /// Reads the register of an object, also of a deleted one.
    ///
    /// # Errors
    ///
    /// [`Unreachable`] where no signed answer came, or one that is neither yes nor no.
    pub async fn read(&self, address: &Address) -> Result<RegisterRead, Unreachable> {
        // An address without a name can have no register.
        let Ok(name) = self.domain.obj_name(address) else {
            return Ok(RegisterRead {
                asked_at: BootInstant::now(),
                register: None,
            });
        };
        let answered = self.asker.ask(&name, RecordType::TXT).await?;
        let records = self.records(&answered)?;
        match records.first() {
            None => Ok(RegisterRead {
                asked_at: answered.asked_at,
                register: None,
            }),
            Some(strings) => match Register::from_strings(strings) {
                Ok(register) => Ok(RegisterRead {
                    asked_at: answered.asked_at,
                    register: Some(register),
                }),
                Err(error) => Err(self.not_understood(&error)),
            },
        }
    }

    /// Changes a register by compare-and-swap, together with all other changes that wait now.
    pub async fn change(&self, change: RegisterChange) -> Changed {
        self.updater.change(change).await
    }

    /// Asks what the controller wants of this server.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub async fn wishes(&self) -> Result<Wishes, Unreachable> {
        let want = PoolName::Want(self.me.clone()).name(&self.domain);
        let todo = PoolName::Todo(self.me.clone()).name(&self.domain);
        let (want, todo) = tokio::try_join!(
            self.asker.ask(&want, RecordType::TXT),
            self.asker.ask(&todo, RecordType::TXT),
        )?;
        let wanted = match self.records(&want)?.first() {
            Some(strings) => Some(Want::from_strings(strings).map_err(|error| self.not_understood(&error))?),
            None => None,
        };
        let todos = self
            .records(&todo)?
            .iter()
            .map(|strings| Wish::from_strings(strings).map_err(|error| self.not_understood(&error)))
            .collect::<Result<_, _>>()?;
        Ok(Wishes {
            asked_at: want.asked_at.min(todo.asked_at),
            want: wanted,
            todos,
        })
    }

    /// Tells what this server has, which renews its lease.
    ///
    /// # Errors
    ///
    /// [`Unreachable`], also where the librarian refuses it.
    pub async fn tell(&self, has: &Has, https_port: u16, addresses: &[std::net::IpAddr]) -> Result<(), Unreachable> {
        // Built once before, so that what cannot be built is an error and not a panic.
        let build = |id| update::build_has_update(&self.domain, id, &self.me, has, https_port, addresses);
        build(0).map_err(|error| self.not_understood(&error))?;
        let answered = self
            .asker
            .tell(&|id| build(id).expect("the same was built a moment ago"))
            .await?;
        match answered.answer.code {
            ResponseCode::NoError => Ok(()),
            code => Err(self.asker.refused(code, &answered.answer)),
        }
    }

    /// Where a server of the pool is.
    ///
    /// # Errors
    ///
    /// [`PeerError`].
    pub async fn peer(&self, server: &ServerName) -> Result<Peer, PeerError> {
        self.peers.find(&self.asker, server).await
    }

    /// Forgets where a server is, because it was not found there.
    pub fn forget_peer(&self, server: &ServerName) {
        self.peers.forget(server);
    }

    /// The strings of each TXT record in an answer; none where the name or the type is absent.
    fn records(&self, answered: &Answered) -> Result<Vec<Vec<Box<[u8]>>>, Unreachable> {
        match answered.answer.code {
            ResponseCode::NoError | ResponseCode::NXDomain => {
                Ok(answered.answer.txt().map(|txt| txt.txt_data.to_vec()).collect())
            }
            code => Err(self.asker.refused(code, &answered.answer)),
        }
    }

    fn not_understood(&self, error: &dyn std::error::Error) -> Unreachable {
        Unreachable {
            librarian: self.asker.librarian(),
            why: format!("its answer is not understood: {error}"),
        }
    }
}
