//! What a server costs, and where new objects go by it.
//!
//! Pure: the same servers and the same settings give the same answer.
//!
//! | file | what |
//! |---|---|
//! | `terms` | what the operator says of resources and servers |
//! | `cost` | the model: what it costs to have a server keep or serve objects |
//! | `rank` | the servers behind `_place.pool.<domain>`, and worths as SRV weights |
//! | `apart` | failure domains: which servers one fault may take at once |

mod apart;
mod cost;
mod rank;
mod terms;

pub use apart::{Apart, Label, LabelError, Labels, Site, apart, choose};
pub use cost::{FULL_PERCENT, Server, Share, Weights, Work, pressure};
pub use rank::{Candidate, Placed, rank, weight};
pub use terms::{Placement, ServerTerms, Terms};
