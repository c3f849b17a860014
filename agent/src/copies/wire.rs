//! What owners and holders of copies say to each other, and its bytes: frames as in [`crate::migration::wire`].
//!
//! Specification: PROTOCOL.md section "Copies".

use zones::{Address, Epoch, Tx};

use super::permits::Pledge;
use crate::migration::wire::{Copy, Fields, Header, Message, WireError};

/// A word about copies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Word {
    /// To a holder: hold this copy. Of its parts those follow that differ from what the holder is known to have. Its tx is that of
    /// the register that one who is to become a holder must have read; [`NO_TX`] where it is one.
    Keep(Copy),
    /// To a holder: reads may be served.
    Grant {
        /// The holder's question.
        number: u64,
        /// The revision that may be shown.
        revision: u64,
        /// For so many milliseconds from when the question was sent.
        good_for_ms: u32,
    },
    /// To a holder: no read may be served, the owner answers them itself.
    NoGrant {
        /// The holder's question.
        number: u64,
    },
    /// To a holder: look at the register, which may not name you any more.
    Look,
    /// To a holder, of the pair and of no object: may its sender go on with whatever of its objects you hold?
    AskPermit {
        /// To be given back.
        number: u64,
    },
    /// To the owner: a copy is held, durably.
    Kept {
        /// The epoch under which it came.
        epoch: Epoch,
        /// Its revision.
        revision: u64,
        /// Of the register that is noted with it.
        tx: Tx,
        /// Under which promise.
        pledge: Pledge,
    },
    /// To the owner: the copy that was offered is wanted with these of its parts.
    Lacks {
        /// The epoch under which it was offered.
        epoch: Epoch,
        /// Its properties.
        properties: bool,
        /// Its body.
        body: bool,
    },
    /// To the owner: nothing of this epoch is taken any more.
    NotKept {
        /// The epoch.
        epoch: Epoch,
    },
    /// To the owner: may reads be served?
    AskGrant {
        /// To be given back.
        number: u64,
    },
    /// To the owner, of the pair: yes.
    Permit {
        /// The owner's question.
        number: u64,
        /// Under which promise.
        pledge: Pledge,
    },
}

/// In the place of a tx where none is named.
pub const NO_TX: Tx = Tx([0; 16]);

/// The address in words that are of a pair of agents and of no object.
#[must_use]
pub fn of_the_pair() -> Address {
    "0".parse().expect("a legal address")
}

impl Message for Word {
    fn encode(&self, address: &Address, header: &mut Header<'_>) {
        match self {
            Word::Keep(copy) => header.copy(129, address, copy),
            Word::Grant {
                number,
                revision,
                good_for_ms,
            } => {
                header.begin(130, address, 3);
                header.number(*number);
                header.number(*revision);
                header.number((*good_for_ms).into());
            }
            Word::NoGrant { number } => {
                header.begin(138, address, 1);
                header.number(*number);
            }
            Word::Look => header.begin(131, address, 0),
            Word::AskPermit { number } => {
                header.begin(132, address, 1);
                header.number(*number);
            }
            Word::Kept {
                epoch,
                revision,
                tx,
                pledge,
            } => {
                header.begin(133, address, 4);
                header.number(epoch.0);
                header.number(*revision);
                header.octets(&tx.0);
                header.number(*pledge);
            }
            Word::Lacks {
                epoch,
                properties,
                body,
            } => {
                header.begin(134, address, 3);
                header.number(epoch.0);
                header.flag(*properties);
                header.flag(*body);
            }
            Word::NotKept { epoch } => {
                header.begin(135, address, 1);
                header.number(epoch.0);
            }
            Word::AskGrant { number } => {
                header.begin(136, address, 1);
                header.number(*number);
            }
            Word::Permit { number, pledge } => {
                header.begin(137, address, 2);
                header.number(*number);
                header.number(*pledge);
            }
        }
    }

    fn decode(tag: u8, fields: &mut Fields<'_, '_>) -> Result<Self, WireError> {
        Ok(match tag {
            129 => Word::Keep(fields.copy()?),
            130 => {
                fields.expect(3)?;
                Word::Grant {
                    number: fields.number()?,
                    revision: fields.counted("revision")?,
                    good_for_ms: fields.number_u32("time")?,
                }
            }
            131 => Word::Look,
            132 => {
                fields.expect(1)?;
                Word::AskPermit {
                    number: fields.number()?,
                }
            }
            133 => {
                fields.expect(4)?;
                Word::Kept {
                    epoch: fields.epoch()?,
                    revision: fields.counted("revision")?,
                    tx: fields.tx()?,
                    pledge: fields.number()?,
                }
            }
            134 => {
                fields.expect(3)?;
                Word::Lacks {
                    epoch: fields.epoch()?,
                    properties: fields.flag()?,
                    body: fields.flag()?,
                }
            }
            135 => {
                fields.expect(1)?;
                Word::NotKept { epoch: fields.epoch()? }
            }
            136 => {
                fields.expect(1)?;
                Word::AskGrant {
                    number: fields.number()?,
                }
            }
            137 => {
                fields.expect(2)?;
                Word::Permit {
                    number: fields.number()?,
                    pledge: fields.number()?,
                }
            }
            138 => {
                fields.expect(1)?;
                Word::NoGrant {
                    number: fields.number()?,
                }
            }
            0..=128 | 139.. => return Err(WireError::Tag(tag)),
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::migration::wire::tests::copy;
    use crate::migration::wire::{COUNTED_MAX, Either, read_frame, take_frame, write_frame};

    fn word() -> impl Strategy<Value = Word> {
        let epoch = (1..=COUNTED_MAX).prop_map(Epoch);
        prop_oneof![
            copy().prop_map(Word::Keep),
            (any::<u64>(), 0..=COUNTED_MAX, any::<u32>()).prop_map(|(number, revision, good_for_ms)| Word::Grant {
                number,
                revision,
                good_for_ms
            }),
            any::<u64>().prop_map(|number| Word::NoGrant { number }),
            Just(Word::Look),
            any::<u64>().prop_map(|number| Word::AskPermit { number }),
            (epoch.clone(), 0..=COUNTED_MAX, any::<([u8; 16], u64)>()).prop_map(|(epoch, revision, (tx, pledge))| {
                let tx = Tx(tx);
                Word::Kept {
                    epoch,
                    revision,
                    tx,
                    pledge,
                }
            }),
            (epoch.clone(), any::<bool>(), any::<bool>()).prop_map(|(epoch, properties, body)| Word::Lacks {
                epoch,
                properties,
                body
            }),
            epoch.prop_map(|epoch| Word::NotKept { epoch }),
            any::<u64>().prop_map(|number| Word::AskGrant { number }),
            any::<(u64, u64)>().prop_map(|(number, pledge)| Word::Permit { number, pledge }),
        ]
    }

    proptest! {
        #[test]
        fn every_word_is_read_back(word in word()) {
            let (address, word) = ("3.1.2".parse().unwrap(), Either::Copies(word));
            let mut octets = BytesMut::new();
            write_frame(&mut octets, &address, &word, &[b"payload"]);
            let frame = take_frame(&mut octets).unwrap().unwrap();
            let (read_address, read, payload) = read_frame::<Either>(&frame).unwrap();
            prop_assert_eq!((read_address, read, &payload[..]), (address, word, &b"payload"[..]));
        }
    }

    /// The example of PROTOCOL.md section "Copies".
    #[test]
    fn octets_of_a_confirmation_are_those_of_the_document() {
        let word = Either::Copies(Word::Kept {
            epoch: Epoch(2),
            revision: 5,
            tx: Tx([0xab; 16]),
            pledge: 9,
        });
        let mut octets = BytesMut::new();
        write_frame(&mut octets, &"3.1".parse().unwrap(), &word, &[]);
        assert_eq!(
            data_encoding::HEXLOWER.encode(&octets),
            "0000001b86188563332e31020550abababababababababababababababab09"
        );
    }
}
