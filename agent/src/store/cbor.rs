//! How the words of `zones`, and places on disk, are written in CBOR.

use std::str::FromStr;
use std::sync::Arc;

use minicbor::decode::Error as DecodeError;
use minicbor::encode::{Error as EncodeError, Write};
use minicbor::{Decoder, Encoder};
use zones::{Epoch, Level, Tx};

use super::extent::Extent;
use super::space::Extents;

/// Most extents of one stream: 2^32 blocks, 16 TiB in single blocks, bound what a row can make a reader allocate.
const EXTENTS_MAX: u64 = 1 << 32;

/// Words with a text form: addresses, types, server names.
pub(crate) mod text {
    use super::*;

    pub(crate) fn encode<C, T: ToString, W: Write>(
        value: &T,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.str(&value.to_string())?.ok()
    }

    pub(crate) fn decode<C, T: FromStr>(d: &mut Decoder<'_>, _: &mut C) -> Result<T, DecodeError> {
        let at = d.position();
        d.str()?
            .parse()
            .map_err(|_| DecodeError::message("a text breaks its grammar").at(at))
    }
}

/// Epochs, as unsigned numbers.
pub(crate) mod epoch {
    use super::*;

    pub(crate) fn encode<C, W: Write>(
        value: &Epoch,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.u64(value.0)?.ok()
    }

    pub(crate) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Epoch, DecodeError> {
        d.u64().map(Epoch)
    }
}

/// Levels, as unsigned numbers.
pub(crate) mod level {
    use super::*;

    pub(crate) fn encode<C, W: Write>(
        value: &Level,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.u8(value.0)?.ok()
    }

    pub(crate) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Level, DecodeError> {
        d.u8().map(Level)
    }
}

/// A register's tx, as 16 octets.
pub(crate) mod tx {
    use super::*;

    pub(crate) fn encode<C, W: Write>(value: &Tx, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
        e.bytes(&value.0)?.ok()
    }

    pub(crate) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Tx, DecodeError> {
        octets(d).map(Tx)
    }
}

/// A tx that may be absent.
pub(crate) mod option_tx {
    use super::*;

    pub(crate) fn encode<C, W: Write>(
        value: &Option<Tx>,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        match value {
            Some(tx) => e.bytes(&tx.0)?.ok(),
            None => e.null()?.ok(),
        }
    }

    pub(crate) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Option<Tx>, DecodeError> {
        if d.datatype()? == minicbor::data::Type::Null {
            d.null()?;
            return Ok(None);
        }
        octets(d).map(|octets| Some(Tx(octets)))
    }

    /// What an absent field means.
    pub(crate) fn nil() -> Option<Option<Tx>> {
        Some(None)
    }

    /// Whether the field is left out.
    pub(crate) fn is_nil(value: &Option<Tx>) -> bool {
        value.is_none()
    }
}

/// Words with a text form, one after the other.
pub(crate) mod texts {
    use super::*;

    pub(crate) fn encode<C, T: ToString, W: Write>(
        values: &[T],
        e: &mut Encoder<W>,
        c: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.array(values.len() as u64)?;
        values.iter().try_for_each(|value| text::encode(value, e, c))
    }

    pub(crate) fn decode<C, T: FromStr>(d: &mut Decoder<'_>, c: &mut C) -> Result<Vec<T>, DecodeError> {
        let at = d.position();
        let count = d.array()?;
        let count = count.ok_or_else(|| DecodeError::message("words are no array of a known length").at(at))?;
        // Not made in advance: a count beyond what follows is a lie.
        (0..count).map(|_| text::decode(d, c)).collect()
    }
}

/// A word with a text form, or none.
pub(crate) mod option_text {
    use super::*;

    pub(crate) fn encode<C, T: ToString, W: Write>(
        value: &Option<T>,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        match value {
            Some(value) => e.str(&value.to_string())?.ok(),
            None => e.null()?.ok(),
        }
    }

    pub(crate) fn decode<C, T: FromStr>(d: &mut Decoder<'_>, c: &mut C) -> Result<Option<T>, DecodeError> {
        if d.datatype()? == minicbor::data::Type::Null {
            d.null()?;
            return Ok(None);
        }
        text::decode(d, c).map(Some)
    }

    /// What an absent field means.
    pub(crate) fn nil<T>() -> Option<Option<T>> {
        Some(None)
    }

    /// Whether the field is left out.
    pub(crate) fn is_nil<T>(value: &Option<T>) -> bool {
        value.is_none()
    }
}

/// Write ids, as 16 octets.
pub(crate) mod uuid {
    use super::*;
    use ::uuid::Uuid;

    pub(crate) fn encode<C, W: Write>(
        value: &Uuid,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.bytes(value.as_bytes())?.ok()
    }

    pub(crate) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Uuid, DecodeError> {
        octets(d).map(Uuid::from_bytes)
    }
}

/// Places on disk: one flat array of volume, block, blocks, volume, block, blocks, ...
pub(crate) mod extents {
    use super::*;

    pub(crate) fn encode<C, W: Write>(
        value: &Arc<Extents>,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.array(value.len() as u64 * 3)?;
        for extent in value.iter() {
            e.u32(extent.volume)?.u32(extent.block)?.u32(extent.blocks)?;
        }
        Ok(())
    }

    pub(crate) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Arc<Extents>, DecodeError> {
        let at = d.position();
        let bad = || DecodeError::message("places on disk are no array of threes").at(at);
        let numbers = d.array()?.ok_or_else(bad)?;
        if numbers % 3 != 0 || numbers / 3 > EXTENTS_MAX {
            return Err(bad());
        }
        // Each number takes an octet at least: a count beyond what follows is a lie, and must not be allocated.
        let mut list = Vec::with_capacity(usize::try_from(numbers / 3).unwrap_or(0).min(d.input().len() / 3));
        for _ in 0..numbers / 3 {
            list.push(Extent {
                volume: d.u32()?,
                block: d.u32()?,
                blocks: d.u32()?,
            });
        }
        Ok(Arc::new(Extents::told(list.into_boxed_slice())))
    }
}

fn octets<const N: usize>(d: &mut Decoder<'_>) -> Result<[u8; N], DecodeError> {
    let at = d.position();
    d.bytes()?
        .try_into()
        .map_err(|_| DecodeError::message("octets of another length").at(at))
}
