//! Zone transfers: AXFR and IXFR.
//!
//! Not offered yet. The place is kept: the registry's log tells what changed, and `zones::tsig` signs sequences of
//! messages.

use hickory_proto::op::ResponseCode;
use zones::ExtendedError;

use crate::answer::Response;

/// What every request for a transfer gets.
pub(crate) fn refuse() -> Response {
    Response::error(
        ResponseCode::Refused,
        ExtendedError::PROHIBITED,
        "zone transfers are not offered by this release",
    )
}
