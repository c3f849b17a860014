//! What the librarian was told and what it answered: registers read and changed by real DNS.
//!
//! Specification: RFC 2136 (updates), RFC 8945 (TSIG), DESIGN.md sections 5 and 7.

mod ask;
mod line;
mod peers;
mod reads;
mod report;
#[cfg(test)]
pub(crate) mod stub;
mod trust;
mod updater;

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use zones::has::Has;
use zones::tsig::TsigKey;
use zones::update::{self, RegisterChange};
use zones::want::{PoolName, Want, Wish};
use zones::{Address, Domain, Register, Report, ServerName};

use crate::clock::BootInstant;
use ask::{Answered, Asker};
use peers::Peers;
pub use peers::{Peer, PeerError};
use reads::Reader;
pub(crate) use report::ReportLine;
pub use trust::{Keep, Phase, Trust};
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
    reader: Reader,
    updater: Updater,
    peers: Peers,
    key: TsigKey,
    trust: Arc<Trust>,
}

impl Registers {
    /// Speaks to the librarian at `librarian` as `me`, whose key is `key`. Needs a tokio runtime.
    #[must_use]
    pub fn new(domain: Domain, me: ServerName, librarian: SocketAddr, key: TsigKey, trust: Arc<Trust>) -> Registers {
        Registers {
            updater: Updater::start(domain.clone(), librarian, key.clone(), Arc::clone(&trust)),
            reader: Reader::start(librarian, key.clone()),
            asker: Asker::new(librarian, key.clone()),
            key,
            trust,
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

    /// Which registry is believed.
    #[must_use]
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// Reads the register of an object, also of a deleted one.
    ///
    /// # Errors
    ///
    /// [`Unreachable`] where no signed answer came, or one that is neither yes nor no, or one of a registry that is not
    /// believed.
    pub async fn read(&self, address: &Address) -> Result<RegisterRead, Unreachable> {
        // An address without a name can have no register.
        let Ok(name) = self.domain.obj_name(address) else {
            return Ok(RegisterRead {
                asked_at: BootInstant::now(),
                register: None,
            });
        };
        self.believed()?;
        let answered = self.reader.ask(name).await?;
        self.hear(&answered)?;
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
    ///
    /// A registry that is not believed is sent nothing, and its replies are none: [`Changed::Unknown`].
    pub async fn change(&self, change: RegisterChange) -> Changed {
        if !self.trust.is_trusted() {
            return Changed::Unknown;
        }
        let changed = self.updater.change(change).await;
        if self.trust.is_trusted() {
            changed
        } else {
            Changed::Unknown
        }
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
        self.hear(&want)?;
        self.hear(&todo)?;
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
        // What a server has is no register: every registry is told.
        self.trust.hear(answered.answer.told);
        match answered.answer.code {
            ResponseCode::NoError => Ok(()),
            code => Err(self.asker.refused(code, &answered.answer)),
        }
    }

    /// What a server last said of itself, as the librarian remembers it; `None` if it never did, or its lease is over.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub async fn has(&self, server: &ServerName) -> Result<Option<Has>, Unreachable> {
        let answered = self
            .asker
            .ask(&self.domain.in_pool(server.as_str()), RecordType::TXT)
            .await?;
        self.trust.hear(answered.answer.told);
        match self.records(&answered)?.first() {
            Some(strings) => Has::from_strings(strings)
                .map(Some)
                .map_err(|error| self.not_understood(&error)),
            None => Ok(None),
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

    /// Opens a connection for a report.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub(crate) async fn report_line(&self) -> Result<ReportLine, Unreachable> {
        let line = ReportLine::connect(self.asker.librarian(), self.key.clone(), self.domain.clone()).await;
        line.map_err(|why| self.unreachable(why))
    }

    /// Tells a registry that is being reconciled a part of what this server knows; durable there on return.
    ///
    /// # Errors
    ///
    /// [`Unreachable`], also where the librarian refuses it: the report is to be begun anew.
    pub(crate) async fn report(&self, line: &mut ReportLine, report: &Report) -> Result<(), Unreachable> {
        let answer = line.send(report).await.map_err(|why| self.unreachable(why))?;
        self.trust.hear(answer.told);
        match report::refusal(&answer) {
            None => Ok(()),
            Some(why) => Err(self.unreachable(why)),
        }
    }

    /// Whether registers may be read and changed.
    fn believed(&self) -> Result<(), Unreachable> {
        match self.trust.is_trusted() {
            true => Ok(()),
            false => Err(self.unreachable("its registry is not reconciled with this server".to_owned())),
        }
    }

    /// Takes in which registry answered; an error if the answer does not count.
    fn hear(&self, answered: &Answered) -> Result<(), Unreachable> {
        match self.trust.hear(answered.answer.told) {
            true => Ok(()),
            false => Err(self.unreachable("its registry is not reconciled with this server".to_owned())),
        }
    }

    fn unreachable(&self, why: String) -> Unreachable {
        Unreachable {
            librarian: self.asker.librarian(),
            why,
        }
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

#[cfg(test)]
mod tests {
    use zones::{Epoch, Level, Role, Standing, State, Tx};

    use super::stub::Stub;
    use super::*;

    fn fresh(address: &str) -> RegisterChange {
        let me: ServerName = "s1".parse().unwrap();
        RegisterChange {
            old: None,
            new: Register {
                address: address.parse().unwrap(),
                epoch: Epoch::FIRST,
                owner: me.clone(),
                state: State::Stable,
                tx: Tx(rand::random()),
                holders: vec![me],
                kind: "file".parse().unwrap(),
                schema: 1,
                level: Level(1),
            },
        }
    }

    async fn all(registers: &Arc<Registers>, changes: Vec<RegisterChange>) -> Vec<Changed> {
        let tasks: Vec<_> = changes
            .into_iter()
            .map(|change| {
                let registers = Arc::clone(registers);
                tokio::spawn(async move { registers.change(change).await })
            })
            .collect();
        let mut ends = Vec::new();
        for task in tasks {
            ends.push(task.await.unwrap());
        }
        ends
    }

    #[tokio::test]
    async fn register_reads_back_as_it_was_changed() {
        let stub = Stub::start().await;
        let registers = stub.registers();
        let change = fresh("1.2.A");
        let before = BootInstant::now();
        assert_eq!(registers.read(&change.new.address).await.unwrap().register, None);
        assert_eq!(registers.change(change.clone()).await, Changed::Done);
        let read = registers.read(&change.new.address.folded()).await.unwrap();
        assert_eq!(read.register, Some(change.new));
        assert!(read.asked_at >= before);
    }

    #[tokio::test]
    async fn waiting_changes_share_messages() {
        let stub = Stub::start().await;
        let registers = Arc::new(stub.registers());
        let ends = all(&registers, (0..1000).map(|n| fresh(&format!("5.{n}"))).collect()).await;
        assert!(ends.iter().all(|end| *end == Changed::Done));
        let pool = stub.pool.lock();
        assert_eq!(pool.changes, 1000);
        assert!(pool.messages < 100, "{} messages", pool.messages);
    }

    #[tokio::test]
    async fn refused_message_is_split_to_find_the_one_at_fault() {
        let stub = Stub::start().await;
        let registers = Arc::new(stub.registers());
        let taken = fresh("7.33");
        stub.pool
            .lock()
            .registers
            .insert(taken.new.address.clone(), fresh("7.33").new);
        let ends = all(&registers, (0..100).map(|n| fresh(&format!("7.{n}"))).collect()).await;
        for (n, end) in ends.into_iter().enumerate() {
            match end {
                Changed::Done => assert_ne!(n, 33),
                Changed::Refused { rcode, unanswered, .. } => {
                    assert_eq!((n, rcode, unanswered), (33, ResponseCode::YXRRSet, 0));
                }
                Changed::Unknown => panic!("{n}"),
            }
        }
    }

    #[tokio::test]
    async fn two_changes_of_one_object_never_share_a_message() {
        let stub = Stub::start().await;
        let registers = Arc::new(stub.registers());
        let ends = all(&registers, vec![fresh("1"), fresh("1"), fresh("1")]).await;
        assert_eq!(ends.iter().filter(|end| **end == Changed::Done).count(), 1);
    }

    #[tokio::test]
    async fn lost_question_about_a_register_is_asked_again() {
        let stub = Stub::start().await;
        let registers = stub.registers();
        let change = fresh("1");
        assert_eq!(registers.change(change.clone()).await, Changed::Done);
        stub.pool.lock().lose_questions = 1;
        let read = registers.read(&change.new.address).await.unwrap();
        assert_eq!(read.register, Some(change.new));
    }

    /// What is asked over UDP; registers are asked for over TCP alone.
    #[tokio::test]
    async fn lost_question_is_asked_again_and_a_cut_answer_over_tcp() {
        let stub = Stub::start().await;
        let registers = stub.registers();
        let server: ServerName = "s2".parse().unwrap();
        stub.pool.lock().peers.insert(server.clone(), 4711);
        stub.pool.lock().lose_questions = 1;
        stub.pool.lock().truncate = true;
        let has = registers.has(&server).await.unwrap().expect("it said so");
        assert_eq!(has.peer_port, 4711);
    }

    #[tokio::test]
    async fn change_whose_reply_is_lost_says_how_often() {
        let stub = Stub::start().await;
        let registers = stub.registers();
        stub.pool.lock().lose_replies = 1;
        match registers.change(fresh("1")).await {
            Changed::Refused { rcode, unanswered, .. } => {
                assert_eq!((rcode, unanswered), (ResponseCode::YXRRSet, 1));
            }
            other @ (Changed::Done | Changed::Unknown) => panic!("{other:?}"),
        }
        assert!(stub.register(&"1".parse().unwrap()).is_some());
    }

    #[tokio::test]
    async fn refusal_carries_the_words_of_the_librarian() {
        let stub = Stub::start().await;
        stub.pool.lock().roles.insert("s1".parse().unwrap(), Role::Draining);
        match stub.registers().change(fresh("1")).await {
            Changed::Refused { rcode, why, .. } => {
                assert_eq!(rcode, ResponseCode::Refused);
                assert!(why.contains("takes no new objects"), "{why}");
            }
            other @ (Changed::Done | Changed::Unknown) => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn registry_that_is_not_believed_is_neither_read_nor_changed() {
        let stub = Stub::start().await;
        let registers = stub.registers();
        let known = fresh("1");
        assert_eq!(registers.change(known.clone()).await, Changed::Done);
        let told = |number, standing| {
            Some(zones::Told {
                incarnation: zones::Incarnation([number; 16]),
                standing,
            })
        };
        for standing in [Standing::Report, Standing::Reported, Standing::Open] {
            stub.pool.lock().registry = told(2, standing);
            assert!(registers.read(&known.new.address).await.is_err());
            assert!(registers.wishes().await.is_err());
            let messages = stub.pool.lock().messages;
            assert_eq!(registers.change(fresh("2")).await, Changed::Unknown);
            assert_eq!(stub.pool.lock().messages, messages, "a change was sent");
        }
        // Late answers of the old one are none.
        stub.pool.lock().registry = told(1, Standing::Open);
        assert!(registers.wishes().await.is_err());
        assert!(registers.read(&known.new.address).await.is_err());
    }

    #[tokio::test]
    async fn reply_of_another_registry_settles_no_change() {
        let stub = Stub::start().await;
        let registers = stub.registers();
        assert_eq!(registers.change(fresh("1")).await, Changed::Done);
        // The change lands, and its reply is the first that names the other registry.
        stub.pool.lock().registry = Some(zones::Told {
            incarnation: zones::Incarnation([2; 16]),
            standing: Standing::Report,
        });
        assert_eq!(registers.change(fresh("2")).await, Changed::Unknown);
        assert!(!registers.trust().is_trusted());
    }

    #[tokio::test]
    async fn librarian_that_is_away_is_unreachable_and_changes_nothing() {
        let stub = Stub::start().await;
        stub.pool.lock().silent = true;
        let registers = stub.registers();
        let address = "1".parse().unwrap();
        let (read, changed, wishes) = tokio::join!(
            registers.read(&address),
            registers.change(fresh("1")),
            registers.wishes()
        );
        assert!(read.is_err() && wishes.is_err());
        assert_eq!(changed, Changed::Unknown);
    }
}
