//! A report to a registry that is being reconciled: one message after the other on one connection.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::net::TcpStream;
use tokio::time::timeout;
use zones::report::build_report;
use zones::tsig::{self, TsigKey};
use zones::{Answer, Domain, Report, query};

use super::line::{read_message, write_message};
use crate::clock;

/// How long connecting may take.
const CONNECT_WAIT: Duration = Duration::from_secs(2);
/// How long the librarian may take to make one message durable.
const REPLY_WAIT: Duration = Duration::from_secs(20);

/// A connection that reports go over.
pub(crate) struct ReportLine {
    stream: TcpStream,
    key: TsigKey,
    domain: Domain,
}

impl ReportLine {
    pub(crate) async fn connect(librarian: SocketAddr, key: TsigKey, domain: Domain) -> Result<ReportLine, String> {
        let connected = timeout(CONNECT_WAIT, TcpStream::connect(librarian)).await;
        let stream = connected
            .map_err(|_| "no connection in time".to_owned())?
            .map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(ReportLine { stream, key, domain })
    }

    /// Sends one message; its answer, if the signature holds.
    pub(crate) async fn send(&mut self, report: &Report) -> Result<Answer, String> {
        let id = rand::random();
        let mut message = build_report(&self.domain, id, report).map_err(|error| error.to_string())?;
        let mac = tsig::sign_request(&mut message, &self.key, clock::unix_s());
        let exchange = async {
            write_message(&mut self.stream, &message).await?;
            read_message(&mut self.stream).await
        };
        let octets = timeout(REPLY_WAIT, exchange)
            .await
            .map_err(|_| "no answer in time".to_owned())?
            .map_err(|error| error.to_string())?;
        tsig::verify_response(&octets, &self.key, &mac, clock::unix_s()).map_err(|error| error.to_string())?;
        let answer = query::read_answer(&octets).map_err(|error| error.to_string())?;
        if answer.id != id {
            return Err("the answer is to another message".to_owned());
        }
        Ok(answer)
    }
}

/// Why an answer is no.
pub(crate) fn refusal(answer: &Answer) -> Option<String> {
    match answer.code {
        ResponseCode::NoError => None,
        code => Some(answer.why().map_or_else(|| code.to_string(), str::to_owned)),
    }
}
