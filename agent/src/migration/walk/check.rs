//! What must hold after every event, and at the end.

use zones::State as RegisterState;

use super::world::{Journal, Row, World, name};

impl World {
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        for pair in self.history.windows(2) {
            if pair[1].epoch < pair[0].epoch {
                return Err("I4: an epoch fell".to_owned());
            }
        }
        for (position, text) in self.history.iter().enumerate() {
            if self.history[..position].contains(text) {
                return Err("I17: a register text occurs twice".to_owned());
            }
        }
        let complete = |row: &Row| row.log.starts_with(&self.shown);
        if self.register.state == RegisterState::Stable {
            let owner = self.owner();
            let holds = self.agents[owner].rows.iter().any(|row| {
                let of_epoch = match &row.journal {
                    Journal::Active { .. } | Journal::Moving { .. } | Journal::Sealed { .. } => {
                        row.epoch == self.register.epoch
                    }
                    Journal::CommitSent { .. } => row.epoch.next() == self.register.epoch,
                    Journal::Moved { .. }
                    | Journal::Reserved { .. }
                    | Journal::Staged { .. }
                    | Journal::Prepared { .. } => false,
                };
                of_epoch && complete(row)
            });
            if !holds {
                return Err("I4: the owner in the register has no complete copy of its epoch".to_owned());
            }
        }
        if !self.agents.iter().any(|agent| agent.rows.iter().any(complete)) {
            return Err("I5: no complete copy anywhere".to_owned());
        }
        let writable = (0..2).filter(|agent| {
            let open = !self.agents[*agent].writes_held;
            let of_epoch = self.owned(*agent).is_some_and(|row| {
                let current = row.epoch == self.register.epoch && self.register.owner == name(*agent);
                matches!(row.journal, Journal::Active { .. } | Journal::Moving { .. }) && !current
            });
            open && of_epoch
        });
        match writable.count() {
            0 => Ok(()),
            _ => Err("I1: an agent would take writes that are not its to take".to_owned()),
        }
    }

    /// Faults have stopped and everything is quiet.
    pub(super) fn check_end(&self) -> Result<(), String> {
        if self.register.state != RegisterState::Stable {
            return Err("I12: the register is left moving".to_owned());
        }
        let owner = self.owner();
        let Some(row) = self.owned(owner) else {
            return Err("the owner serves nothing".to_owned());
        };
        if !matches!(row.journal, Journal::Active { wait: false }) || row.epoch != self.register.epoch {
            return Err(format!("the owner's row is left as {row:?}"));
        }
        if self.agents[owner].writes_held || self.agents[owner].reads != crate::objects::ReadGate::Open {
            return Err("the owner's gates are left closed".to_owned());
        }
        for agent in 0..2 {
            for row in &self.agents[agent].rows {
                let served = matches!(row.journal, Journal::Active { .. }) && agent == owner;
                // A moved copy whose machine ended in a crash is taken up by the next life.
                if !served && !matches!(row.journal, Journal::Moved { .. }) {
                    return Err(format!("I12: agent {agent} is left with {row:?}"));
                }
            }
        }
        Ok(())
    }
}
