//! A large object: put, read by range, moved, read back, with bounded memory everywhere.
//!
//! 64 MiB here; `HYPERNET_LARGE_MIB=1024` or `=16384` for a longer run (the disk must hold it twice). Prints the peak memory
//! of each process.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::harness::{Pool, curl, peak_memory};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
/// No process may ever hold more.
const MEMORY_MAX: u64 = 256 << 20;
const MEBIBYTE: usize = 1 << 20;

/// Mebibyte number `number`: cheap to make, and different everywhere.
fn mebibyte(number: usize, into: &mut [u8]) {
    let mut state = (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for eight in into.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        eight.copy_from_slice(&state.to_le_bytes());
    }
}

/// Puts the object from a stream: it lies nowhere but in the pool.
fn put(pool: &Pool, client: &str, mebibytes: usize) -> Result<()> {
    let mut command = pool.agent_command();
    command.args(["put", "6.1", "--client", client, "-"]);
    let mut child = command.stdin(Stdio::piped()).spawn().context("start agent put")?;
    let mut input = child.stdin.take().context("the command's input")?;
    let mut piece = vec![0; MEBIBYTE];
    for number in 0..mebibytes {
        mebibyte(number, &mut piece);
        input.write_all(&piece).context("write the object's octets")?;
    }
    drop(input);
    ensure!(child.wait()?.success(), "agent put failed");
    Ok(())
}

/// Reads the object as a stream and compares it on the way.
fn get(pool: &Pool, client: &str, mebibytes: usize) -> Result<()> {
    let mut command = pool.agent_command();
    command.args(["get", "6.1", "--client", client]);
    let mut child = command.stdout(Stdio::piped()).spawn().context("start agent get")?;
    let mut output = child.stdout.take().context("the command's output")?;
    let (mut found, mut right) = (vec![0; MEBIBYTE], vec![0; MEBIBYTE]);
    for number in 0..mebibytes {
        output.read_exact(&mut found).context("read the object's octets")?;
        mebibyte(number, &mut right);
        ensure!(found == right, "mebibyte {number} differs");
    }
    ensure!(output.read(&mut found)? == 0, "the object is longer than it was");
    ensure!(child.wait()?.success(), "agent get failed");
    Ok(())
}

/// Reads a few ranges with curl: the first octets, across a chunk's edge, the last ones.
fn check_ranges(pool: &Pool, client: &Path, mebibytes: usize) -> Result<()> {
    let total = mebibytes * MEBIBYTE;
    let server = pool.servers().first().context("a server")?;
    let host = format!("any.pool.{}", pool.domain().trim_end_matches('.'));
    let mut resolve = Vec::new();
    for server in pool.servers() {
        let https = server.ready.https;
        let name = format!("{}.pool.{}", server.name, pool.domain().trim_end_matches('.'));
        resolve.extend([
            "--resolve".to_owned(),
            format!("{name}:{}:{}", https.port(), https.ip()),
        ]);
    }
    let port = server.ready.https.port();
    resolve.extend(["--resolve".to_owned(), format!("{host}:{port}:127.0.0.1")]);
    for (first, last) in [
        (0, 99),
        (65_500, 65_700),
        (total / 2 - 10, total / 2 + 10),
        (total - 7, total - 1),
    ] {
        let file = |name: &str| client.join(name).display().to_string();
        let out = client.join("range");
        let mut args = vec![
            "-L".to_owned(),
            "--fail".to_owned(),
            "--range".to_owned(),
            format!("{first}-{last}"),
        ];
        args.extend([
            "--cacert".to_owned(),
            file("ca.pem"),
            "--cert".to_owned(),
            file("client.pem"),
        ]);
        args.extend([
            "--key".to_owned(),
            file("client.key"),
            "--output".to_owned(),
            out.display().to_string(),
        ]);
        args.extend(resolve.clone());
        args.push(format!("https://{host}:{port}/objects/6.1/body"));
        curl(&args)?.success()?;
        let found = std::fs::read(&out)?;
        let mut right = Vec::new();
        let mut piece = vec![0; MEBIBYTE];
        for number in first / MEBIBYTE..=last / MEBIBYTE {
            mebibyte(number, &mut piece);
            right.extend_from_slice(&piece);
        }
        let skipped = first / MEBIBYTE * MEBIBYTE;
        ensure!(
            found == right[first - skipped..=last - skipped],
            "range {first}-{last} differs"
        );
    }
    Ok(())
}

#[test]
fn memory_does_not_grow_with_the_object() -> Result<()> {
    let mebibytes: usize = match std::env::var("HYPERNET_LARGE_MIB") {
        Ok(text) => text.parse().context("HYPERNET_LARGE_MIB is a number of mebibytes")?,
        Err(_) => 64,
    };
    let home = tempfile::tempdir()?;
    let pool = Pool::builder(DEMO)
        .servers(2)
        .temporary_in(home.path())
        .agent_setting("store.capacity", format!("{}MiB", mebibytes * 3 / 2 + 256))
        .start()?;
    let client = pool.add_client("large", &["read:*", "write:*"])?;
    let client_text = client.to_str().context("client's directory")?;
    let wait = Duration::from_secs(60 + mebibytes as u64);
    let timed = |what: &str, act: &dyn Fn() -> Result<()>| -> Result<()> {
        let start = Instant::now();
        act()?;
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{what}: {mebibytes} MiB in {seconds:.2} s, {:.0} MB/s",
            mebibytes as f64 * 1.048_576 / seconds
        );
        for process in pool.processes() {
            let peak = peak_memory(process.pid())? as f64 / 1_048_576.0;
            println!("  peak memory of {} so far: {peak:.1} MiB", process.name());
        }
        Ok(())
    };
    timed("put", &|| put(&pool, client_text, mebibytes))?;
    timed("read", &|| get(&pool, client_text, mebibytes))?;
    check_ranges(&pool, &client, mebibytes)?;
    timed("drain", &|| pool.librarian_within(wait, &["drain", "s1"]).map(drop))?;
    timed("read after the move", &|| get(&pool, client_text, mebibytes))?;
    check_ranges(&pool, &client, mebibytes)?;
    for process in pool.processes() {
        let peak = peak_memory(process.pid())?;
        println!(
            "peak memory of {}: {:.1} MiB",
            process.name(),
            peak as f64 / 1_048_576.0
        );
        ensure!(peak < MEMORY_MAX, "{} held {peak} octets", process.name());
    }
    Ok(())
}
