//! Makes objects that look like those of a real hierarchy, the same ones for the same seed.
//!
//! What was measured on 23,728 real addresses and 1,662 real objects, and is imitated: depths 1 to 10 in their real
//! shares; one parent with half of all objects as children; parents that are missing more often than not; zero-padded
//! numbers, and addresses that differ by leading zeros only; a few parts longer than a DNS label; letters of both
//! cases, `-` and `_`; content with a median of 1.4 kB and a long tail (99th percentile 24 kB, none over 51 kB, some
//! empty); files, folders and a dozen rarer types, each with its own properties.

use std::collections::HashSet;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use serde_json::{Map, Value, json};
use zones::Address;

use super::Sample;

const MEDIAN_OCTETS: f64 = 1_400.0;
/// Spread of the logarithm: puts the 99th percentile at 24 kB.
const SPREAD: f64 = 1.22;
const LARGEST_OCTETS: usize = 51_000;

const WORDS: &[&str] = &[
    "address",
    "archive",
    "body",
    "catalogue",
    "chapter",
    "commit",
    "copy",
    "data",
    "definition",
    "domain",
    "draft",
    "entry",
    "example",
    "flag",
    "folder",
    "graph",
    "history",
    "index",
    "journal",
    "knowledge",
    "leaf",
    "library",
    "link",
    "map",
    "message",
    "migration",
    "network",
    "node",
    "note",
    "object",
    "page",
    "parent",
    "path",
    "plan",
    "process",
    "record",
    "registry",
    "release",
    "report",
    "requirement",
    "review",
    "schema",
    "section",
    "server",
    "source",
    "state",
    "store",
    "strategy",
    "structure",
    "table",
    "task",
    "topic",
    "type",
    "version",
    "workflow",
];

/// Types with their share in a thousand.
const TYPES: &[(&str, u32)] = &[
    ("file", 580),
    ("folder", 265),
    ("knowledge_leaf", 40),
    ("link_type_definition", 25),
    ("definition", 22),
    ("link_definition", 20),
    ("object_type_definition", 16),
    ("knowledge_topic", 12),
    ("workflow_definition", 7),
    ("registry", 5),
    ("flag_definition", 4),
    ("document", 2),
    ("task", 1),
    ("index", 1),
];

/// Makes `count` objects with distinct addresses; the same ones for the same `seed`. No two addresses differ only by
/// case.
#[must_use]
pub fn generate(count: usize, seed: u64) -> Vec<Sample> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut seen = HashSet::new();
    let mut samples = Vec::with_capacity(count);
    // The fixed ones first: what the grammar allows at its edges is there in every set that is large enough.
    let edges = edge_addresses(&mut rng);
    let mut edges = edges.into_iter();
    while samples.len() < count {
        let text = edges.next().unwrap_or_else(|| address(&mut rng, samples.len()));
        let address: Address = text.parse().expect("the generator spells legal addresses");
        if seen.insert(address.folded()) {
            samples.push(sample(&mut rng, address));
        }
    }
    samples
}

/// Addresses every set begins with: one of each depth, pairs that differ by leading zeros, long parts, both cases.
fn edge_addresses(rng: &mut StdRng) -> Vec<String> {
    let mut edges = vec![
        "0".to_owned(),
        "3.1.2.1.023".to_owned(),
        "3.1.2.1.23".to_owned(),
        "2.3.4.001".to_owned(),
        "2.3.4.1".to_owned(),
        "2.3.4.003".to_owned(),
        "2.3.4.3".to_owned(),
        "1.2.01.5".to_owned(),
        "1.2.1.5".to_owned(),
        "0.4.00".to_owned(),
        "0.4.0".to_owned(),
        "2.GEN2.Boot_Sequence".to_owned(),
        "9".to_owned(),
    ];
    for depth in 2..=10 {
        edges.push((0..depth).map(|part| part.to_string()).collect::<Vec<_>>().join("."));
    }
    for number in 0..5 {
        let mut part = format!("2026-05-0{}-task-{:03}", number + 1, rng.random_range(1..120));
        while part.len() < 70 {
            part.push('-');
            part.push_str(word(rng));
        }
        edges.push(format!("2.messages.coordination.{part}"));
    }
    edges
}

/// One more address, by the real shares of families.
fn address(rng: &mut StdRng, made: usize) -> String {
    match rng.random_range(0..100) {
        // Half of everything lies under one parent, numbered in order, padded with zeros.
        0..47 => format!("0.7.1.{:05}", made + 1),
        // Deep trees that mirror other trees; most of their inner nodes are no objects.
        47..80 => {
            let depth = match rng.random_range(0..100) {
                0..45 => 5,
                45..62 => 6,
                62..74 => 9,
                74..88 => 10,
                88..95 => 7,
                95..100 => 8,
                _ => unreachable!("the range ends at 100"),
            };
            let mut text = "0.1.1".to_owned();
            text.push_str(if rng.random() { "1" } else { "2" });
            for _ in 3..depth {
                text.push_str(&format!(".{}", rng.random_range(0..40)));
            }
            text
        }
        80..88 => format!(
            "4.{}.{}.{}",
            rng.random_range(1..30),
            rng.random_range(1..9),
            rng.random_range(1..9)
        ),
        88..93 => format!("0.6.{}.{}", rng.random_range(1..12), word(rng)),
        93..97 => format!(
            "2.1.instances.{}.personal-time.202603{:02}-{:02}{:02}{:02}",
            word(rng),
            rng.random_range(1..31),
            rng.random_range(0..24),
            rng.random_range(0..60),
            rng.random_range(0..60)
        ),
        97..99 => format!("3.1.{}.{:03}", rng.random_range(1..9), rng.random_range(0..200)),
        99..100 => format!("{}.{}_{}", rng.random_range(0..7), word(rng), rng.random_range(0..1000)),
        _ => unreachable!("the range ends at 100"),
    }
}

fn sample(rng: &mut StdRng, address: Address) -> Sample {
    let kind = kind(rng);
    let octets = if rng.random_ratio(7, 100) { 0 } else { octets(rng) };
    let name = address.as_str().rsplit('.').next().unwrap_or_default().to_owned();
    let properties = match kind {
        "file" => json!({
            "name": format!("{name}.md"), "type": "file", "extension": ".md", "size": rng.random_range(10..60_000),
            "path": format!("C:\\Library\\{}\\{name}.md", address.as_str().replace('.', "\\")),
        }),
        "folder" if octets == 0 => {
            json!({ "name": name, "type": "folder", "path": format!("C:\\Library\\{name}"), "content": null })
        }
        "folder" => json!({
            "name": name, "type": "folder", "path": format!("C:\\Library\\{name}"), "content_file": "node.json",
        }),
        rarer => json!({
            "object_type": rarer, "creator": "2.1.librarian", "created": format!("2026-04-{:02}", rng.random_range(1..31)),
            "status": if rng.random_ratio(9, 10) { "active" } else { "draft — for review" }, "visibility": "public",
            "flags": [word(rng), word(rng)],
        }),
    };
    let properties = match properties {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    };
    Sample {
        body: text(rng, &address, octets),
        kind: kind.parse().expect("types are legal"),
        properties,
        address,
    }
}

fn kind(rng: &mut StdRng) -> &'static str {
    let whole = TYPES.iter().map(|(_, share)| share).sum();
    let mut place = rng.random_range(0..whole);
    for (kind, share) in TYPES {
        if place < *share {
            return kind;
        }
        place -= share;
    }
    unreachable!("the shares add up to the range")
}

/// Log-normal, cut at the largest that was seen.
fn octets(rng: &mut StdRng) -> usize {
    // Box and Muller: two uniform numbers make a normal one.
    let (first, second): (f64, f64) = (rng.random_range(f64::EPSILON..1.0), rng.random());
    let normal = (-2.0 * first.ln()).sqrt() * (std::f64::consts::TAU * second).cos();
    ((MEDIAN_OCTETS * (SPREAD * normal).exp()) as usize).clamp(20, LARGEST_OCTETS)
}

/// Markdown of about `octets`, with a heading and some letters outside ASCII.
fn text(rng: &mut StdRng, address: &Address, octets: usize) -> Vec<u8> {
    if octets == 0 {
        return Vec::new();
    }
    let mut text = format!("# {address}\n\n**Status:** aktiv — gültig\n\n");
    while text.len() < octets {
        match rng.next_u32() % 16 {
            0 => text.push_str(".\n\n## "),
            1 => text.push_str("\n- "),
            2 => text.push_str(". "),
            _ => text.push(' '),
        }
        text.push_str(word(rng));
    }
    text.push('\n');
    text.into_bytes()
}

fn word(rng: &mut StdRng) -> &'static str {
    WORDS[rng.random_range(0..WORDS.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_makes_the_same_objects_and_another_seed_others() {
        assert_eq!(generate(500, 7), generate(500, 7));
        assert_ne!(generate(500, 7), generate(500, 8));
    }

    #[test]
    fn generated_objects_have_the_shape_of_the_real_ones() {
        let samples = generate(4000, 1);
        let mut depths: Vec<usize> = samples.iter().map(|sample| sample.address.depth()).collect();
        depths.sort_unstable();
        depths.dedup();
        assert_eq!(depths, (1..=10).collect::<Vec<_>>());
        let mut sizes: Vec<usize> = samples.iter().map(|sample| sample.body.len()).collect();
        sizes.sort_unstable();
        let (median, p99) = (sizes[sizes.len() / 2], sizes[sizes.len() * 99 / 100]);
        assert!((1_000..1_800).contains(&median), "median {median}");
        assert!((15_000..35_000).contains(&p99), "99th percentile {p99}");
        let all: HashSet<&str> = samples.iter().map(|sample| sample.address.as_str()).collect();
        assert_eq!(all.len(), samples.len());
        assert!(all.contains("2.3.4.001") && all.contains("2.3.4.1"));
        let orphans = samples.iter().filter_map(|sample| sample.address.parent());
        assert!(orphans.filter(|parent| !all.contains(parent.as_str())).count() > samples.len() / 4);
        assert!(
            samples
                .iter()
                .any(|sample| sample.address.parts().any(|part| part.len() > 63))
        );
        assert!(samples.iter().any(|sample| sample.body.is_empty()));
    }
}
