//! `agent schema-step`: the process that runs schema steps for an agent.

use std::time::Duration;

use anyhow::Context;

use crate::schema::child;

#[derive(Debug, clap::Args)]
#[command(
    hide = true,
    after_help = "The agent starts `agent schema-step` itself, with a socket as standard input."
)]
pub(super) struct SchemaStep {
    /// Processor time of one step, in milliseconds
    #[arg(long)]
    processor_ms: u64,
    /// Memory beyond what the process has at its start
    #[arg(long)]
    memory_octets: u64,
    /// Longest result
    #[arg(long)]
    output_octets: u64,
}

impl SchemaStep {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let processor = Duration::from_millis(self.processor_ms);
        child::serve(processor, self.memory_octets, self.output_octets).context("run schema steps")
    }
}
