//! Registers in a checkpoint ([`super::super::checkpoint`]), as they lie in memory.
//!
//! | field | |
//! |---|---|
//! | count u32; each: length u8, name | servers by number |
//! | count u32; each: length u8, type, schema u32, level u8 | types by number |
//! | count u32; each: length u32, octets | pieces of texts |
//! | count u32; each: 11 words u32, and 7 of its list if it has more than three holders | rows by number |
//! | count u32; each: row u32 | live rows by key, then the same by key, last octet first |
//!
//! All of it little-endian. Which row a key has is found anew, since hashes are of one process.

use std::io::{self, Read, Write};
use std::sync::Arc;

use zones::{Domain, Level};

use super::super::checkpoint::{bad, octets};
use super::super::glance::Glance;
use super::super::key::key_of;
use super::super::table::{KeyWriter, Kind, LIST_WORDS, OrderWriter, Row, WORDS};
use super::{Registers, hash_of, is_sound};

impl Registers {
    /// Writes all of it.
    pub(crate) fn save(&self, out: &mut impl Write) -> io::Result<()> {
        write_count(out, self.servers.list().len())?;
        for server in self.servers.list().iter() {
            write_text(out, server.as_str())?;
        }
        write_count(out, self.kinds.list().len())?;
        for kind in self.kinds.list().iter() {
            write_text(out, kind.kind.as_str())?;
            out.write_all(&kind.schema.to_le_bytes())?;
            out.write_all(&[kind.level.0])?;
        }
        let pieces = self.texts.pieces();
        write_count(out, pieces.len())?;
        for octets in pieces {
            write_count(out, octets.len())?;
            out.write_all(octets)?;
        }
        write_count(out, self.len())?;
        for id in 0..self.row_count() {
            let (words, list) = self.row(id).to_words();
            for word in words.into_iter().chain(list.into_iter().flatten()) {
                out.write_all(&word.to_le_bytes())?;
            }
        }
        for order in [&self.forward, &self.backward] {
            write_count(out, order.len())?;
            for row in order.order().from(|_| false) {
                out.write_all(&row.to_le_bytes())?;
            }
        }
        Ok(())
    }

    /// Reads what [`Registers::save`] wrote, and goes on loading what came after; end with [`Registers::finish_loading`].
    pub(crate) fn from_saved(domain: Domain, glance: Arc<Glance>, from: &mut impl Read) -> io::Result<Registers> {
        let mut this = Registers::loading(domain, 0, glance);
        for _ in 0..number(from)? {
            let name = text(from)?;
            if this.servers.find(&name).is_some() {
                return Err(bad("a server has two numbers"));
            }
            let server = name.parse().map_err(|_| bad("a server's name breaks its grammar"))?;
            this.servers.add(server);
        }
        for _ in 0..number(from)? {
            let name = text(from)?;
            let (schema, [level]) = (number(from)?, octets(from)?);
            if this.kinds.find((&name, schema, level)).is_some() {
                return Err(bad("a type has two numbers"));
            }
            let kind = name.parse().map_err(|_| bad("a type breaks its grammar"))?;
            this.kinds.add(Kind {
                kind,
                schema,
                level: Level(level),
            });
        }
        let mut piece = Vec::new();
        for _ in 0..number(from)? {
            let length = u64::from(number(from)?);
            piece.clear();
            if from.by_ref().take(length).read_to_end(&mut piece)? as u64 != length || !this.texts.push_piece(&piece) {
                return Err(bad("a piece of texts is cut"));
            }
        }
        this.look_around();
        let rows = number(from)?;
        for id in 0..rows {
            let row = Row::from_words(words::<WORDS>(from)?, || words::<LIST_WORDS>(from))?;
            let row = row.ok_or(bad("a row is none"))?;
            if !this.table.knows(&row) || this.rows.push(&row) != id {
                return Err(bad("a row names what is not there"));
            }
            if !is_sound(&row, this.kinds.get(row.kind).level.0) || !this.has_own_key(&row) {
                return Err(bad("a register contradicts itself"));
            }
            this.count_row(&row, true);
        }
        this.keys = KeyWriter::with_room(rows as usize);
        let (all, texts, hasher) = (this.rows.rows(), this.texts.texts(), &this.table.hasher);
        this.keys.add_all(rows, |id| hash_of(all, texts, hasher, id));
        this.look_around();
        let live = (0..rows).filter(|id| this.is_live(*id)).count();
        for order in [&mut this.forward, &mut this.backward] {
            let count = number(from)?;
            let mut sorted = Vec::new();
            for _ in 0..count {
                sorted.push(number(from)?);
            }
            if sorted.len() != live || sorted.iter().any(|id| *id >= rows) {
                return Err(bad("an order is not of these rows"));
            }
            *order = OrderWriter::from_sorted(&sorted);
        }
        this.disordered = Some(Vec::new());
        Ok(this)
    }

    /// Whether the text of a row is an address with its key.
    fn has_own_key(&self, row: &Row) -> bool {
        let texts = &self.table.texts;
        let (Some(spelling), Some(key)) = (texts.spelling(row.text), texts.key(row.text)) else {
            return false;
        };
        let Ok(spelling) = std::str::from_utf8(spelling) else {
            return false;
        };
        if self.is_key(spelling) {
            return spelling.as_bytes() == key;
        }
        let address = spelling.parse().ok();
        let own = address.and_then(|address| key_of(&self.domain, &address));
        own.is_some_and(|own| own.as_bytes() == key)
    }
}

fn write_count(out: &mut impl Write, count: usize) -> io::Result<()> {
    let count = u32::try_from(count).map_err(io::Error::other)?;
    out.write_all(&count.to_le_bytes())
}

fn write_text(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(&[u8::try_from(text.len()).map_err(io::Error::other)?])?;
    out.write_all(text.as_bytes())
}

fn number(from: &mut impl Read) -> io::Result<u32> {
    Ok(u32::from_le_bytes(octets(from)?))
}

fn words<const N: usize>(from: &mut impl Read) -> io::Result<[u32; N]> {
    let mut words = [[0; 4]; N];
    from.read_exact(words.as_flattened_mut())?;
    Ok(words.map(u32::from_le_bytes))
}

fn text(from: &mut impl Read) -> io::Result<String> {
    let [length] = octets(from)?;
    let mut text = vec![0; length.into()];
    from.read_exact(&mut text)?;
    String::from_utf8(text).map_err(|_| bad("a text is not one"))
}
