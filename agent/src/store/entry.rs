//! Entries: what the index says of one copy, and what was sent for it.
//!
//! A row is the CBOR map of an [`Entry`] without its sequence number, which is the row's key. Fields are numbered, and
//! unknown ones are skipped, so that a later release can add some. Octets: STORE.md section 3.

use std::sync::Arc;

use minicbor::{Decode, Encode};
use uuid::Uuid;
use zones::{Address, Epoch, Given, Level, ObjectType, ServerName, Tx};

use super::audit::AuditNote;
use super::cbor;
use super::space::Extents;
use super::stream::StagedStream;
use crate::vault::envelope::{Binding, PREFIX_OCTETS, StreamBinding};
use crate::vault::{Commitment, Digest, Generation, Part, StreamId, Suite, VaultError, WrappedDek};

/// What the index says of one copy.
#[derive(Clone, Debug, Eq, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Entry {
    /// Key of the row: rises with every change, and is never used again. Names this very copy.
    #[cbor(skip)]
    pub seq: u64,
    /// The object.
    #[cbor(n(0), with = "cbor::text")]
    pub address: Address,
    /// Epoch of this copy.
    #[cbor(n(1), with = "cbor::epoch")]
    pub epoch: Epoch,
    /// Number of client writes that it has.
    #[n(2)]
    pub revision: u64,
    /// The object's type.
    #[cbor(n(3), with = "cbor::text")]
    pub kind: ObjectType,
    /// Schema version of its properties.
    #[n(4)]
    pub schema: u32,
    /// The object's level.
    #[cbor(n(5), with = "cbor::level")]
    pub level: Level,
    /// What this copy is, and what was sent for it.
    #[n(6)]
    pub journal: Journal,
    /// Its properties.
    #[n(7)]
    pub properties: Option<Stream>,
    /// Its body.
    #[n(8)]
    pub body: Option<Stream>,
    /// Client writes of the last hour, oldest first.
    #[n(9)]
    pub writes: Vec<WriteRecord>,
    /// The register's tx as last known.
    #[cbor(n(10), with = "cbor::option_tx", has_nil)]
    pub tx: Option<Tx>,
    /// The server that handed the object over; requests that it forwards are taken. None where the object was made.
    #[cbor(n(11), with = "cbor::option_text", has_nil)]
    pub from: Option<ServerName>,
    /// The copy as it came, while it arrives.
    #[n(12)]
    pub received: Option<Received>,
    /// Why the properties are not in a later version: a schema step failed when the object arrived.
    #[n(13)]
    pub quarantined: Option<String>,
    /// Schema version that its properties had before the steps of the move that brought them.
    #[n(14)]
    pub migrated_from: Option<u32>,
    /// By whose order it is given away, or was.
    #[n(15)]
    pub leaving: Option<Leaving>,
    /// Who else holds the object, as long as this server owns it; absent where nobody does.
    #[n(16)]
    pub keeping: Option<Keeping>,
}

/// The copies of an object beside its owner's, as its owner has noted them. Who is noted counts as in-sync.
#[derive(Clone, Debug, Default, Eq, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Keeping {
    /// The other holders.
    #[cbor(n(0), with = "cbor::texts")]
    pub others: Vec<ServerName>,
    /// The change of them that may have been sent.
    #[n(1)]
    pub change: Option<HolderChange>,
}

/// A change of an object's holders: durable before it is sent, and noted until the register has settled it.
#[derive(Clone, Debug, Eq, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct HolderChange {
    /// Who becomes a holder, or is one no more; the owner itself where only the tx is made fresh.
    #[cbor(n(0), with = "cbor::text")]
    pub server: ServerName,
    /// Whether it becomes one.
    #[n(1)]
    pub adds: bool,
    /// Of the register to be.
    #[cbor(n(2), with = "cbor::tx")]
    pub tx: Tx,
    /// Of the register that it replaces.
    #[cbor(n(3), with = "cbor::tx")]
    pub old: Tx,
}

/// What a holder refuses that is about to become the owner: copies, and the permission to go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Refusal {
    /// The owner's epoch; those below it are refused as well.
    #[cbor(n(0), with = "cbor::epoch")]
    pub epoch: Epoch,
    /// Of the register that this server's own change replaces. As long as the register has it, that change may land, and nothing
    /// lifts the refusal.
    #[cbor(n(1), with = "cbor::tx")]
    pub tx: Tx,
}

/// How an object leaves a server: from the begin of its move until the copy that stays behind is removed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Leaving {
    /// The plan that asked for the move.
    #[n(0)]
    pub plan: u64,
    /// Whether the server was being emptied: then the copy stays until a gate has let it go.
    #[n(1)]
    pub gated: bool,
    /// Digest of the properties as they were given, if not as they are kept.
    #[n(2)]
    pub given: Option<Digest>,
}

/// An arriving copy as it came: for the comparison at the seal, and for the audit log.
#[derive(Clone, Debug, Eq, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Received {
    /// Version of its properties as they came.
    #[n(0)]
    pub schema: u32,
    /// Their digest.
    #[n(1)]
    pub properties: Option<Digest>,
    /// The version that the source had them in, before it stepped them back.
    #[n(2)]
    pub schema_before: u32,
    /// The object's level at the source.
    #[n(3)]
    pub level: u8,
    /// Generation of the source's key-encryption key, if it told.
    #[n(4)]
    pub key: Option<u64>,
    /// What asked for the move, in the source's words.
    #[n(5)]
    pub actor: String,
}

/// What a copy is, and what was sent for it (DESIGN.md section 11). Each variant is durable before what it names is sent.
#[derive(Clone, Debug, Eq, PartialEq, Encode, Decode)]
pub enum Journal {
    /// A new object; the update that creates its register may have been sent.
    #[n(0)]
    CreateSent {
        /// Of the register to be.
        #[cbor(n(0), with = "cbor::tx")]
        tx: Tx,
    },
    /// Owned and served.
    #[n(1)]
    Active {
        /// Set until the former owner has answered the fence, or its time is over.
        #[n(0)]
        wait: Option<OpenWait>,
    },
    /// Owned and served while it is copied to `to`.
    #[n(2)]
    Moving {
        /// The destination.
        #[cbor(n(0), with = "cbor::text")]
        to: ServerName,
        /// Of the register that says so.
        #[cbor(n(1), with = "cbor::tx")]
        tx: Tx,
    },
    /// Owned; writes wait until the register says who is.
    #[n(3)]
    Sealed {
        /// The destination.
        #[cbor(n(0), with = "cbor::text")]
        to: ServerName,
        /// Of the register at the seal.
        #[cbor(n(1), with = "cbor::tx")]
        tx: Tx,
        /// The last revision (vk).
        #[n(2)]
        revision: u64,
        /// Digests at that revision, in this server's form.
        #[n(3)]
        digests: Digests,
    },
    /// No longer owned; kept until its retirement.
    #[n(4)]
    Moved {
        /// The new owner.
        #[cbor(n(0), with = "cbor::text")]
        to: ServerName,
        /// The new epoch.
        #[cbor(n(1), with = "cbor::epoch")]
        epoch: Epoch,
    },
    /// The copy is gone; who asks is sent on. Has no streams.
    #[n(5)]
    Forward {
        /// The new owner.
        #[cbor(n(0), with = "cbor::text")]
        to: ServerName,
        /// The new epoch.
        #[cbor(n(1), with = "cbor::epoch")]
        epoch: Epoch,
    },
    /// Owned; the update that deletes its register may have been sent.
    #[n(6)]
    DeleteSent {
        /// Of the deleted register to be.
        #[cbor(n(0), with = "cbor::tx")]
        tx: Tx,
    },
    /// Deleted by this server. Has no streams; keeps the write records of the delete.
    #[n(7)]
    Tombstone {
        /// Epoch of the deleted register.
        #[cbor(n(0), with = "cbor::epoch")]
        epoch: Epoch,
        /// Of the deleted register.
        #[cbor(n(1), with = "cbor::tx")]
        tx: Tx,
    },
    /// Space is set aside for a copy that is coming. Has no streams.
    #[n(8)]
    Reserved {
        /// The source.
        #[cbor(n(0), with = "cbor::text")]
        from: ServerName,
        /// Of the register of the move.
        #[cbor(n(1), with = "cbor::tx")]
        tx: Tx,
        /// Plaintext expected.
        #[n(2)]
        octets: u64,
        /// When the wait for it ends.
        #[n(3)]
        expires_unix_ms: u64,
    },
    /// A copy arrived and was read back; never served.
    #[n(9)]
    Staged {
        /// The source.
        #[cbor(n(0), with = "cbor::text")]
        from: ServerName,
        /// Of the register of the move.
        #[cbor(n(1), with = "cbor::tx")]
        tx: Tx,
    },
    /// The copy equals the sealed one; never served.
    #[n(10)]
    Prepared {
        /// The source.
        #[cbor(n(0), with = "cbor::text")]
        from: ServerName,
        /// Of the register at the seal.
        #[cbor(n(1), with = "cbor::tx")]
        tx: Tx,
    },
    /// The update that makes this server the owner may have been sent; the copy stays until a register read settles it.
    #[n(11)]
    CommitSent {
        /// The source.
        #[cbor(n(0), with = "cbor::text")]
        from: ServerName,
        /// Of the register at the seal.
        #[cbor(n(1), with = "cbor::tx")]
        tx: Tx,
        /// Of the register to be.
        #[cbor(n(2), with = "cbor::tx")]
        commit_tx: Tx,
    },
    /// A copy of an object that another server owns. Its epoch is that owner's, under which this content came.
    #[n(12)]
    Held {
        /// Who owns the object, as the register said that was noted.
        #[cbor(n(0), with = "cbor::text")]
        owner: ServerName,
        /// Of that register.
        #[cbor(n(1), with = "cbor::tx")]
        tx: Tx,
        /// What this server takes nothing of any more, since it is about to become the owner; durable before anybody hears of it.
        #[n(2)]
        refused: Option<Refusal>,
    },
}

impl Journal {
    /// Whether the copy, or the space for it, is of an object that is another server's until a commit takes it.
    #[must_use]
    pub fn is_arriving(&self) -> bool {
        match self {
            Journal::Reserved { .. }
            | Journal::Staged { .. }
            | Journal::Prepared { .. }
            | Journal::CommitSent { .. } => true,
            Journal::CreateSent { .. }
            | Journal::Active { .. }
            | Journal::Moving { .. }
            | Journal::Sealed { .. }
            | Journal::Moved { .. }
            | Journal::Forward { .. }
            | Journal::DeleteSent { .. }
            | Journal::Tombstone { .. }
            // It is in-sync, and stays until the register names this server no more.
            | Journal::Held { .. } => false,
        }
    }

    /// Whether something is under way that the register has to settle, or a wait: a server with such a row is not empty.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match self {
            Journal::Reserved { .. }
            | Journal::Staged { .. }
            | Journal::Prepared { .. }
            | Journal::CommitSent { .. }
            | Journal::CreateSent { .. }
            | Journal::Moving { .. }
            | Journal::Sealed { .. }
            | Journal::DeleteSent { .. }
            | Journal::Active { wait: Some(_) }
            | Journal::Held { refused: Some(_), .. } => true,
            Journal::Active { wait: None }
            | Journal::Held { refused: None, .. }
            | Journal::Moved { .. }
            | Journal::Forward { .. }
            | Journal::Tombstone { .. } => false,
        }
    }

    /// Whether this server is, or may be, the one whose copy counts.
    #[must_use]
    pub fn may_own(&self) -> bool {
        match self {
            Journal::CreateSent { .. }
            | Journal::Active { .. }
            | Journal::Moving { .. }
            | Journal::Sealed { .. }
            | Journal::CommitSent { .. } => true,
            Journal::Moved { .. }
            | Journal::Forward { .. }
            | Journal::DeleteSent { .. }
            | Journal::Tombstone { .. }
            | Journal::Reserved { .. }
            | Journal::Staged { .. }
            | Journal::Prepared { .. }
            // Also while it is about to: the row of an owner takes its place when the register has said so.
            | Journal::Held { .. } => false,
        }
    }

    /// Whether the copy is one of an object that was given away.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        matches!(self, Journal::Moved { .. })
    }

    /// Whether the copy is one of an object that another server owns.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held_for().is_some()
    }

    /// Who owns the object, if the copy is one of an object that another server owns.
    #[must_use]
    pub fn held_for(&self) -> Option<&ServerName> {
        match self {
            Journal::Held { owner, .. } => Some(owner),
            Journal::CreateSent { .. }
            | Journal::Active { .. }
            | Journal::Moving { .. }
            | Journal::Sealed { .. }
            | Journal::Moved { .. }
            | Journal::Forward { .. }
            | Journal::DeleteSent { .. }
            | Journal::Tombstone { .. }
            | Journal::Reserved { .. }
            | Journal::Staged { .. }
            | Journal::Prepared { .. }
            | Journal::CommitSent { .. } => None,
        }
    }
}

/// A new owner waits for the former one.
#[derive(Clone, Debug, Eq, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct OpenWait {
    /// The former owner.
    #[cbor(n(0), with = "cbor::text")]
    pub from: ServerName,
}

/// Digests of an object's parts, those that it has.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Digests {
    /// Of the canonical properties.
    #[n(0)]
    pub properties: Option<Digest>,
    /// Of the body.
    #[n(1)]
    pub body: Option<Digest>,
}

/// One sealed stream of a copy.
#[derive(Clone, Debug, Eq, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Stream {
    /// Its random name.
    #[n(0)]
    pub id: StreamId,
    /// Number of its suite.
    #[n(1)]
    pub suite: u8,
    /// First octets of every chunk's nonce.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub nonce_prefix: [u8; PREFIX_OCTETS],
    /// Generation of the KEK that wraps its data key.
    #[n(3)]
    pub kek_generation: Generation,
    /// Its data key, wrapped and bound to the entry.
    #[n(4)]
    pub wrapped_dek: WrappedDek,
    /// Where it lies; held while this value or a clone of it lives.
    #[cbor(n(5), with = "cbor::extents")]
    pub extents: Arc<Extents>,
    /// Octets of its chunks' content: its plaintext, and padding where the suite pads.
    #[n(6)]
    pub padded_octets: u64,
    /// Digest of its plaintext.
    #[n(7)]
    pub digest: Digest,
    /// What it commits to its key by, from level 2 on.
    #[n(8)]
    pub commitment: Option<Commitment>,
    /// Octets of its plaintext. Where the suite pads, the row does not say it: it lies with the wrapped data key.
    #[cbor(skip)]
    pub plain_octets: u64,
}

impl Stream {
    pub(crate) fn binding(&self) -> StreamBinding {
        StreamBinding {
            id: self.id,
            padded_octets: self.padded_octets,
            digest: self.digest,
        }
    }
}

/// A client write that was applied.
#[derive(Clone, Debug, Eq, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct WriteRecord {
    /// Who wrote.
    #[n(0)]
    pub client: String,
    /// The write id (UUIDv7).
    #[cbor(n(1), with = "cbor::uuid")]
    pub id: Uuid,
    /// Hash of verb and content: the same id with another one is refused.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub request_hash: [u8; 32],
    /// When it was applied.
    #[n(3)]
    pub unix_ms: u64,
    /// The revision that it made.
    #[n(4)]
    pub revision: u64,
}

/// One part of an entry to be.
#[derive(Clone, Debug)]
pub enum Content {
    /// The copy has no such part.
    Absent,
    /// The part was written for this entry.
    Staged(StagedStream),
    /// The part of the entry that is replaced. Its data key is wrapped anew where the entry says something else or the
    /// KEK's generation is not the current one.
    Kept,
}

/// An entry to be: everything but its place in the index and its wrapped keys.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each field is the one of Entry")]
pub struct NewEntry {
    pub address: Address,
    pub epoch: Epoch,
    pub revision: u64,
    pub kind: ObjectType,
    pub schema: u32,
    pub level: Level,
    pub journal: Journal,
    pub properties: Content,
    pub body: Content,
    pub writes: Vec<WriteRecord>,
    pub tx: Option<Tx>,
    pub from: Option<ServerName>,
    pub received: Option<Received>,
    pub quarantined: Option<String>,
    pub migrated_from: Option<u32>,
    pub leaving: Option<Leaving>,
    pub keeping: Option<Keeping>,
    pub audit: Option<AuditNote>,
}

/// One change of the index. All changes of one commit are applied together or not at all.
#[derive(Clone, Debug)]
pub enum Change {
    /// Adds a copy.
    Insert(NewEntry),
    /// Puts an entry in the place of the one with this sequence number. It gets a number of its own.
    Replace {
        /// The entry that goes.
        seq: u64,
        /// The entry that comes.
        entry: NewEntry,
    },
    /// Removes a copy, named by its sequence number, never by its address.
    Remove {
        /// The entry that goes.
        seq: u64,
    },
}

impl Entry {
    /// The same entry as one to be, with its streams kept: change what differs, and [`Change::Replace`] this one by it.
    /// Nothing changed, it still brings the data keys under the current generation.
    #[must_use]
    pub fn keep(&self) -> NewEntry {
        let content = |stream: &Option<Stream>| match stream {
            Some(_) => Content::Kept,
            None => Content::Absent,
        };
        NewEntry {
            address: self.address.clone(),
            epoch: self.epoch,
            revision: self.revision,
            kind: self.kind.clone(),
            schema: self.schema,
            level: self.level,
            journal: self.journal.clone(),
            properties: content(&self.properties),
            body: content(&self.body),
            writes: self.writes.clone(),
            tx: self.tx,
            from: self.from.clone(),
            received: self.received.clone(),
            audit: None,
            quarantined: self.quarantined.clone(),
            migrated_from: self.migrated_from,
            leaving: self.leaving,
            keeping: self.keeping.clone(),
        }
    }

    /// Whether other servers hold the object too, or a change of who does may have been sent, as the owner has noted it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        (self.keeping.as_ref()).is_some_and(|keeping| !keeping.others.is_empty() || keeping.change.is_some())
    }

    /// The servers that hold the object beside its owner, as this row has it.
    #[must_use]
    pub fn others(&self) -> &[ServerName] {
        self.keeping.as_ref().map_or(&[], |keeping| &keeping.others)
    }

    /// Whether this row says that a server holds the object beside its owner, or is about to.
    #[must_use]
    pub fn names(&self, server: &ServerName) -> bool {
        let change = self.keeping.as_ref().and_then(|keeping| keeping.change.as_ref());
        self.others().contains(server) || change.is_some_and(|change| change.server == *server)
    }

    /// Those of them that are not about to be dropped.
    pub fn remaining(&self) -> impl Iterator<Item = &ServerName> {
        let change = self.keeping.as_ref().and_then(|keeping| keeping.change.as_ref());
        let leaves = move |other: &ServerName| change.is_some_and(|change| !change.adds && change.server == *other);
        self.others().iter().filter(move |other| !leaves(other))
    }

    /// One of its streams.
    #[must_use]
    pub fn stream(&self, part: Part) -> Option<&Stream> {
        match part {
            Part::Properties => self.properties.as_ref(),
            Part::Body => self.body.as_ref(),
        }
    }

    /// Its streams, with their parts.
    pub fn streams(&self) -> impl Iterator<Item = (Part, &Stream)> {
        [(Part::Properties, &self.properties), (Part::Body, &self.body)]
            .into_iter()
            .filter_map(|(part, stream)| stream.as_ref().map(|stream| (part, stream)))
    }

    /// Octets of its plaintext, both parts.
    #[must_use]
    pub fn plain_octets(&self) -> u64 {
        self.streams().map(|(_, stream)| stream.plain_octets).sum()
    }

    /// Octets of disk that it takes, both parts.
    #[must_use]
    pub fn disk_octets(&self) -> u64 {
        let extents = self.streams().flat_map(|(_, stream)| stream.extents.iter());
        extents.map(|extent| extent.octets()).fold(0, u64::saturating_add)
    }

    /// Digests of its parts.
    #[must_use]
    pub fn digests(&self) -> Digests {
        Digests {
            properties: self.properties.as_ref().map(|stream| stream.digest),
            body: self.body.as_ref().map(|stream| stream.digest),
        }
    }

    /// What was given away, if this is the copy that stayed behind. A move takes an object from one epoch to the next, whatever
    /// became of it before this server learned of it.
    #[must_use]
    pub fn given(&self) -> Option<Given> {
        if !self.journal.is_retired() {
            return None;
        }
        let digests = self.digests();
        let stepped = self.leaving.and_then(|leaving| leaving.given);
        Some(Given {
            address: self.address.clone(),
            epoch: self.epoch.next(),
            revision: self.revision,
            properties: stepped.or(digests.properties).map(|digest| digest.0),
            body: digests.body.map(|digest| digest.0),
        })
    }

    /// What the wrapped key of one of its streams is bound to.
    pub(crate) fn binding(&self, part: Part, suite: u8) -> Result<Binding<'_>, VaultError> {
        Ok(Binding {
            address: &self.address,
            part,
            suite: Suite::from_number(suite)?,
            level: self.level,
            epoch: self.epoch,
            revision: self.revision,
            schema: self.schema,
            properties: self.properties.as_ref().map(Stream::binding),
            body: self.body.as_ref().map(Stream::binding),
        })
    }

    /// The row's octets.
    #[must_use]
    pub fn encode_row(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("memory takes all")
    }

    /// Reads a row.
    ///
    /// # Errors
    ///
    /// When the octets are no entry of this or an earlier release.
    pub fn decode_row(seq: u64, octets: &[u8]) -> Result<Entry, minicbor::decode::Error> {
        let mut decoder = minicbor::Decoder::new(octets);
        let mut entry: Entry = decoder.decode()?;
        if decoder.position() != octets.len() {
            return Err(minicbor::decode::Error::message("octets follow the entry"));
        }
        entry.seq = seq;
        for stream in [&mut entry.properties, &mut entry.body].into_iter().flatten() {
            // All that the row says; the store learns the rest from the wrapped key.
            stream.plain_octets = stream.padded_octets;
        }
        Ok(entry)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::Extent;

    fn server() -> impl Strategy<Value = ServerName> {
        "[a-z][a-z0-9]{0,10}".prop_filter_map("reserved", |text| text.parse().ok())
    }

    fn tx() -> impl Strategy<Value = Tx> {
        any::<[u8; 16]>().prop_map(Tx)
    }

    fn digests() -> impl Strategy<Value = Digests> {
        let digest = || prop::option::of(any::<[u8; 32]>().prop_map(Digest));
        (digest(), digest()).prop_map(|(properties, body)| Digests { properties, body })
    }

    pub(crate) fn journal() -> impl Strategy<Value = Journal> {
        let epoch = || any::<u64>().prop_map(Epoch);
        prop_oneof![
            tx().prop_map(|tx| Journal::CreateSent { tx }),
            prop::option::of(server()).prop_map(|from| Journal::Active {
                wait: from.map(|from| OpenWait { from })
            }),
            (server(), tx()).prop_map(|(to, tx)| Journal::Moving { to, tx }),
            (server(), tx(), any::<u64>(), digests()).prop_map(|(to, tx, revision, digests)| Journal::Sealed {
                to,
                tx,
                revision,
                digests
            }),
            (server(), epoch()).prop_map(|(to, epoch)| Journal::Moved { to, epoch }),
            (server(), epoch()).prop_map(|(to, epoch)| Journal::Forward { to, epoch }),
            tx().prop_map(|tx| Journal::DeleteSent { tx }),
            (epoch(), tx()).prop_map(|(epoch, tx)| Journal::Tombstone { epoch, tx }),
            (server(), tx(), any::<u64>(), any::<u64>()).prop_map(|(from, tx, octets, expires_unix_ms)| {
                Journal::Reserved {
                    from,
                    tx,
                    octets,
                    expires_unix_ms,
                }
            }),
            (server(), tx()).prop_map(|(from, tx)| Journal::Staged { from, tx }),
            (server(), tx()).prop_map(|(from, tx)| Journal::Prepared { from, tx }),
            (server(), tx(), tx()).prop_map(|(from, tx, commit_tx)| Journal::CommitSent { from, tx, commit_tx }),
            (
                server(),
                tx(),
                prop::option::of((epoch(), tx()).prop_map(|(epoch, tx)| Refusal { epoch, tx }))
            )
                .prop_map(|(owner, tx, refused)| Journal::Held { owner, tx, refused }),
        ]
    }

    fn keeping() -> impl Strategy<Value = Keeping> {
        let change = (server(), any::<bool>(), tx(), tx()).prop_map(|(server, adds, tx, old)| HolderChange {
            server,
            adds,
            tx,
            old,
        });
        (prop::collection::vec(server(), 0..4), prop::option::of(change))
            .prop_map(|(others, change)| Keeping { others, change })
    }

    pub(crate) fn stream() -> impl Strategy<Value = Stream> {
        let extents = prop::collection::vec(any::<(u32, u32, u32)>(), 0..20);
        let extent = |(volume, block, blocks)| Extent { volume, block, blocks };
        (any::<([u8; 16], u8, [u8; 19], u32, Vec<u8>, u64, [u8; 32])>(), extents).prop_map(
            move |((id, suite, nonce_prefix, generation, wrapped, plain_octets, digest), extents)| Stream {
                id: StreamId(id),
                suite,
                nonce_prefix,
                kek_generation: Generation(generation),
                wrapped_dek: WrappedDek(wrapped),
                extents: Arc::new(Extents::told(extents.into_iter().map(extent).collect())),
                padded_octets: plain_octets,
                plain_octets,
                commitment: (suite > 1).then_some(Commitment(digest)),
                digest: Digest(digest),
            },
        )
    }

    fn write_record() -> impl Strategy<Value = WriteRecord> {
        any::<(String, u128, [u8; 32], u64, u64)>().prop_map(|(client, id, request_hash, unix_ms, revision)| {
            WriteRecord {
                client,
                id: Uuid::from_u128(id),
                request_hash,
                unix_ms,
                revision,
            }
        })
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let words = ("[0-9A-Za-z_-]{1,9}(\\.[0-9A-Za-z_-]{1,9}){0,5}", "[!-~]{1,64}");
        let streams = (prop::option::of(stream()), prop::option::of(stream()));
        let writes = prop::collection::vec(write_record(), 0..4);
        let numbers = any::<(u64, u64, u64, u32, u8)>();
        let last = (
            prop::option::of(tx()),
            prop::option::of(server()),
            any::<Option<u32>>(),
            prop::option::of(any::<(u32, Option<[u8; 32]>, u32, u8, Option<u64>)>()),
            prop::option::of("[a-z ]{0,40}"),
            prop::option::of(any::<(u64, bool, Option<[u8; 32]>)>()),
            prop::option::of(keeping()),
        );
        (words, numbers, journal(), streams, writes, last).prop_map(
            |(
                (address, kind),
                (seq, epoch, revision, schema, level),
                journal,
                (properties, body),
                writes,
                (tx, from, migrated_from, received, quarantined, leaving, keeping),
            )| Entry {
                seq,
                address: address.parse().unwrap(),
                epoch: Epoch(epoch),
                revision,
                kind: kind.parse().unwrap(),
                schema,
                level: Level(level),
                journal,
                properties,
                body,
                writes,
                tx,
                from,
                received: received.map(|(schema, properties, schema_before, level, key)| Received {
                    schema,
                    properties: properties.map(Digest),
                    schema_before,
                    level,
                    key,
                    actor: "plan 7".to_owned(),
                }),
                quarantined,
                migrated_from,
                leaving: leaving.map(|(plan, gated, given)| Leaving {
                    plan,
                    gated,
                    given: given.map(Digest),
                }),
                keeping,
            },
        )
    }

    proptest! {
        #[test]
        fn every_entry_comes_back_from_its_row(entry in entry()) {
            let row = entry.encode_row();
            prop_assert_eq!(&Entry::decode_row(entry.seq, &row).unwrap(), &entry);
            prop_assert!(Entry::decode_row(entry.seq, &row[..row.len() - 1]).is_err());
            prop_assert!(Entry::decode_row(entry.seq, &[row.as_slice(), &[0]].concat()).is_err());
        }

        #[test]
        fn field_of_a_later_release_is_skipped(entry in entry(), octets: Vec<u8>) {
            let row = entry.encode_row();
            // A definite map of at most 23 entries: its head is one octet that counts them.
            prop_assert!((0xa0..0xb7).contains(&row[0]));
            let mut later = vec![row[0] + 1];
            later.extend_from_slice(&row[1..]);
            minicbor::Encoder::new(&mut later).u32(99).unwrap().bytes(&octets).unwrap();
            prop_assert_eq!(&Entry::decode_row(entry.seq, &later).unwrap(), &entry);
        }

        #[test]
        fn any_octets_are_read_or_refused(octets: Vec<u8>) {
            let _ = Entry::decode_row(1, &octets);
        }
    }

    #[test]
    fn count_of_places_that_lies_is_refused_without_taking_memory() {
        // A stream whose array of places says 2^60 numbers.
        let mut row = Vec::new();
        let mut e = minicbor::Encoder::new(&mut row);
        e.map(1).unwrap().u8(7).unwrap().map(1).unwrap().u8(5).unwrap();
        e.array(3 << 58).unwrap();
        assert!(Entry::decode_row(1, &row).is_err());
    }

    #[test]
    fn held_copy_is_open_only_while_this_server_is_about_to_take_the_object() {
        let held = |refused| Journal::Held {
            owner: "s2".parse().unwrap(),
            tx: Tx([1; 16]),
            refused,
        };
        for refused in [
            None,
            Some(Refusal {
                epoch: Epoch(4),
                tx: Tx([9; 16]),
            }),
        ] {
            let held = held(refused);
            assert_eq!((held.is_open(), held.is_held()), (refused.is_some(), true));
            assert!(!held.is_arriving() && !held.may_own() && !held.is_retired());
        }
    }

    /// The row that STORE.md section 3 shows. If this test fails, the format has changed: so must the document.
    #[test]
    fn octets_of_a_row_are_those_of_the_document() {
        let entry = Entry {
            seq: 7,
            address: "3.1".parse().unwrap(),
            epoch: Epoch(2),
            revision: 5,
            kind: "photo".parse().unwrap(),
            schema: 3,
            level: Level(1),
            journal: Journal::CommitSent {
                from: "s2".parse().unwrap(),
                tx: Tx([1; 16]),
                commit_tx: Tx([2; 16]),
            },
            properties: None,
            body: Some(Stream {
                id: StreamId([3; 16]),
                suite: 1,
                nonce_prefix: [4; 19],
                kek_generation: Generation(1),
                wrapped_dek: WrappedDek(vec![5; 72]),
                extents: Arc::new(Extents::told(Box::new([
                    Extent {
                        volume: 0,
                        block: 300,
                        blocks: 2,
                    },
                    Extent {
                        volume: 1,
                        block: 9,
                        blocks: 1,
                    },
                ]))),
                padded_octets: 10_000,
                plain_octets: 10_000,
                commitment: None,
                digest: Digest([6; 32]),
            }),
            writes: vec![WriteRecord {
                client: "alice".to_owned(),
                id: Uuid::from_u128(8),
                request_hash: [9; 32],
                unix_ms: 1_700_000_000_000,
                revision: 5,
            }],
            tx: Some(Tx([1; 16])),
            from: None,
            received: None,
            quarantined: None,
            migrated_from: None,
            leaving: None,
            keeping: None,
        };
        let active = Journal::Active { wait: None };
        assert_eq!(minicbor::to_vec(&active).unwrap(), [0x82, 0x01, 0x80]);
        let document = [
            // A map of ten: address, epoch, revision, type, schema, level.
            "aa 00 63332e31 01 02 02 05 03 6570686f746f 04 03 05 01",
            // Journal 11, commit-sent: from, tx, commit tx.
            "06 82 0b 83 627332 50 01010101010101010101010101010101 50 02020202020202020202020202020202",
            // Body, a map of eight: stream id, suite, nonce prefix, generation.
            "08 a8 00 50 03030303030303030303030303030303 01 01",
            "02 53 04040404040404040404040404040404040404 03 01",
            // Wrapped data key: nonce, sealed key, tag.
            "04 5848 050505050505050505050505050505050505050505050505",
            "0505050505050505050505050505050505050505050505050505050505050505 05050505050505050505050505050505",
            // Places, plaintext octets, digest.
            "05 86 00 19012c 02 01 09 01 06 192710",
            "07 5820 0606060606060606060606060606060606060606060606060606060606060606",
            // Writes, each a map of five: client, id, hash, time, revision.
            "09 81 a5 00 65616c696365 01 50 00000000000000000000000000000008",
            "02 5820 0909090909090909090909090909090909090909090909090909090909090909",
            "03 1b0000018bcfe56800 04 05",
            // The register's tx.
            "0a 50 01010101010101010101010101010101",
        ];
        let row = data_encoding::HEXLOWER.encode(&entry.encode_row());
        assert_eq!(row, document.concat().replace(' ', ""));
    }

    /// The other examples of STORE.md section 3: what a holder's row has, and what that of an owner with other holders has.
    #[test]
    fn octets_of_copies_on_several_servers_are_those_of_the_document() {
        let octets = |hex: &str| data_encoding::HEXLOWER.decode(hex.replace(' ', "").as_bytes()).unwrap();
        let held = |refused| Journal::Held {
            owner: "s2".parse().unwrap(),
            tx: Tx([1; 16]),
            refused,
        };
        let tx = "50 01010101010101010101010101010101";
        assert_eq!(
            minicbor::to_vec(held(None)).unwrap(),
            octets(&format!("82 0c 82 627332 {tx}"))
        );
        assert_eq!(
            minicbor::to_vec(held(Some(Refusal {
                epoch: Epoch(2),
                tx: Tx([2; 16])
            })))
            .unwrap(),
            octets(&format!(
                "82 0c 83 627332 {tx} a2 00 02 01 50 02020202020202020202020202020202"
            ))
        );
        let change = HolderChange {
            server: "s3".parse().unwrap(),
            adds: true,
            tx: Tx([2; 16]),
            old: Tx([1; 16]),
        };
        let keeping = Keeping {
            others: vec!["s2".parse().unwrap()],
            change: Some(change),
        };
        let change = format!("a4 00 627333 01 f5 02 50 02020202020202020202020202020202 03 {tx}");
        assert_eq!(
            minicbor::to_vec(&keeping).unwrap(),
            octets(&format!("a2 00 81 627332 01 {change}"))
        );
        let settled = Keeping {
            change: None,
            ..keeping
        };
        assert_eq!(minicbor::to_vec(&settled).unwrap(), octets("a1 00 81 627332"));
    }

    /// The release before has rows of 16 fields at most, and no variant beyond commit-sent.
    #[test]
    fn row_of_the_release_before_says_nothing_of_other_holders() {
        let journal = "06 82 01 80";
        let row = format!("a8 00 63332e31 01 02 02 05 03 6570686f746f 04 03 05 01 {journal} 09 80");
        let row = data_encoding::HEXLOWER.decode(row.replace(' ', "").as_bytes()).unwrap();
        let entry = Entry::decode_row(7, &row).unwrap();
        assert_eq!(entry.keeping, None);
        assert!(!entry.is_shared());
        assert_eq!(entry.encode_row(), row, "nor does this one write anything of them");
    }

    #[test]
    fn count_of_holders_that_lies_is_refused_without_taking_memory() {
        // Holders: an array that says 2^60 names.
        let mut row = Vec::new();
        let mut e = minicbor::Encoder::new(&mut row);
        e.map(1).unwrap().u8(16).unwrap().map(1).unwrap().u8(0).unwrap();
        e.array(1 << 60).unwrap().str("s2").unwrap();
        assert!(Entry::decode_row(1, &row).is_err());
    }
}
