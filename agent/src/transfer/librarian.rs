//! Questions and register changes of many moves, in one task: no task an object.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use zones::RegisterChange;

use super::engine::{Answer, Asked, Said, Wish};
use super::shell::Event;
use crate::migration::ChangeOutcome;
use crate::register::{Changed, Registers};

/// Most wishes under way; further ones wait in the channel.
const OPEN_MAX: usize = 4096;
/// Most wishes that wait in the channel.
pub(crate) const WAITING_MAX: usize = 64 << 10;
/// Most answers handed on at once.
const BATCH_MAX: usize = 512;

/// Runs until the engine is gone.
pub(crate) async fn run(registers: Arc<Registers>, mut wishes: mpsc::Receiver<Wish>, events: mpsc::Sender<Event>) {
    let mut open = FuturesUnordered::new();
    loop {
        let mut answers = Vec::new();
        tokio::select! {
            wish = wishes.recv(), if open.len() < OPEN_MAX => match wish {
                Some(wish) => open.push(fulfil(Arc::clone(&registers), wish)),
                None => return,
            },
            Some(answer) = open.next(), if !open.is_empty() => answers.push(answer),
        }
        while open.len() < OPEN_MAX
            && let Ok(wish) = wishes.try_recv()
        {
            open.push(fulfil(Arc::clone(&registers), wish));
        }
        while answers.len() < BATCH_MAX
            && let Some(Some(answer)) = open.next().now_or_never()
        {
            answers.push(answer);
        }
        if !answers.is_empty() && events.send(Event::Answers(answers)).await.is_err() {
            return;
        }
    }
}

async fn fulfil(registers: Arc<Registers>, wish: Wish) -> Answer {
    let generation = registers.trust().generation();
    let said = match wish.what {
        Asked::Read { address, question } => match registers.read(&address).await {
            Ok(read) => Said::Register {
                question,
                asked_at: read.asked_at,
                // A register of another spelling is another object's.
                register: read.register.filter(|register| register.address == address),
            },
            Err(error) => {
                tracing::debug!(%error, "a register could not be read");
                Said::Nothing { question }
            }
        },
        Asked::Change { old, new } => {
            let change = RegisterChange {
                old: Some(*old),
                new: *new,
            };
            Said::Changed(match registers.change(change).await {
                Changed::Done => ChangeOutcome::Done,
                Changed::Refused { rcode, why, .. } => {
                    tracing::debug!(%rcode, why, "a register change was refused");
                    ChangeOutcome::Refused
                }
                Changed::Unknown => ChangeOutcome::Unknown,
            })
        }
    };
    Answer {
        id: wish.id,
        side: wish.side,
        generation,
        said,
    }
}
