//! What client access counts, and the port that shows it to Prometheus.
//!
//! The port speaks plain HTTP and shows counts only, never addresses of objects or names of clients: few values a label.
//!
//! Specification: Prometheus text exposition format 0.0.4.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What a request asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verb {
    /// Properties.
    Get,
    /// The body.
    GetBody,
    /// Headers only.
    Head,
    /// A write.
    Put,
    /// A deletion.
    Delete,
    /// A listing.
    List,
    /// Anything else.
    Other,
}

const VERBS: [(Verb, &str); 7] = [
    (Verb::Get, "get"),
    (Verb::GetBody, "get_body"),
    (Verb::Head, "head"),
    (Verb::Put, "put"),
    (Verb::Delete, "delete"),
    (Verb::List, "list"),
    (Verb::Other, "other"),
];

/// Classes of a status: 1xx to 5xx.
const CLASSES: usize = 5;

/// Upper bounds of the latency histogram, in microseconds: a local read takes a few hundred, a held write seconds.
const BOUNDS_US: [u64; 14] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
];

/// Counts of client access.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: [[AtomicU64; CLASSES]; VERBS.len()],
    latency: [Histogram; VERBS.len()],
    /// Requests under way.
    pub(super) running: Gauge,
    /// Connections after their handshake.
    pub(super) connections: Gauge,
    /// Handshakes that failed: strangers, foreign or expired certificates, timeouts.
    pub(super) handshakes_failed: AtomicU64,
    /// Requests refused because a bound was reached.
    pub(super) refused_busy: AtomicU64,
    /// Octets of bodies received.
    pub(super) octets_in: AtomicU64,
    /// Octets of bodies sent.
    pub(super) octets_out: AtomicU64,
    /// Requests handed on to the other party of a move.
    pub(super) forwarded: AtomicU64,
}

/// A count that rises and falls.
#[derive(Debug, Default)]
pub(super) struct Gauge(AtomicI64);

/// Holds a gauge one higher.
#[derive(Debug)]
pub(super) struct Held {
    metrics: Arc<Metrics>,
    gauge: fn(&Metrics) -> &Gauge,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS_US.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Metrics {
    /// Requests under way now.
    #[must_use]
    pub fn requests_running(&self) -> u64 {
        u64::try_from(self.running.0.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Octets of bodies that clients and forwarding servers were sent, or sent, since the start.
    #[must_use]
    pub fn octets_carried(&self) -> u64 {
        self.octets_in.load(Ordering::Relaxed) + self.octets_out.load(Ordering::Relaxed)
    }

    /// Raises a gauge until the value is dropped.
    pub(super) fn hold(self: &Arc<Self>, gauge: fn(&Metrics) -> &Gauge) -> Held {
        gauge(self).0.fetch_add(1, Ordering::Relaxed);
        Held {
            metrics: Arc::clone(self),
            gauge,
        }
    }

    /// Counts one request; `took` ends when the answer's headers are ready.
    pub(super) fn request(&self, verb: Verb, status: StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES) - 1;
        self.requests[verb.index()][class].fetch_add(1, Ordering::Relaxed);
        self.latency[verb.index()].add(took);
    }

    /// Writes everything as Prometheus text.
    pub fn write(&self, out: &mut String) {
        head(
            out,
            "agent_http_requests_total",
            "counter",
            "Requests answered, by what they asked and the class of status.",
        );
        for (verb, name) in VERBS {
            for class in 0..CLASSES {
                let count = self.requests[verb.index()][class].load(Ordering::Relaxed);
                if count > 0 {
                    line(
                        out,
                        &format!(
                            "agent_http_requests_total{{verb=\"{name}\",status=\"{}xx\"}}",
                            class + 1
                        ),
                        count,
                    );
                }
            }
        }
        let histogram = "agent_http_request_duration_seconds";
        head(
            out,
            histogram,
            "histogram",
            "Time from the request's headers to those of its answer.",
        );
        for (verb, name) in VERBS {
            self.latency[verb.index()].write(out, histogram, name);
        }
        let gauges = [
            (
                "agent_http_requests_running",
                "Requests under way, bodies included.",
                &self.running,
            ),
            (
                "agent_http_connections",
                "Connections of clients and forwarding servers.",
                &self.connections,
            ),
        ];
        for (name, help, gauge) in gauges {
            head(out, name, "gauge", help);
            line(out, name, gauge.0.load(Ordering::Relaxed));
        }
        let counters = [
            (
                "agent_tls_handshakes_failed_total",
                "Connections without a good certificate of this pool, or too slow with it.",
                &self.handshakes_failed,
            ),
            (
                "agent_http_refused_busy_total",
                "Requests and connections refused because a bound was reached.",
                &self.refused_busy,
            ),
            (
                "agent_http_received_octets_total",
                "Octets of bodies received.",
                &self.octets_in,
            ),
            (
                "agent_http_sent_octets_total",
                "Octets of bodies sent.",
                &self.octets_out,
            ),
            (
                "agent_http_forwarded_total",
                "Requests handed on to the other party of a move.",
                &self.forwarded,
            ),
        ];
        for (name, help, counter) in counters {
            head(out, name, "counter", help);
            line(out, name, counter.load(Ordering::Relaxed));
        }
    }
}

impl Verb {
    fn index(self) -> usize {
        VERBS
            .iter()
            .position(|(verb, _)| *verb == self)
            .expect("VERBS has every verb")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        (self.gauge)(&self.metrics).0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Histogram {
    fn add(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = BOUNDS_US.iter().position(|bound| us <= *bound) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, verb: &str) {
        let count = self.count.load(Ordering::Relaxed);
        if count == 0 {
            return;
        }
        let mut below = 0;
        for (bound_us, bucket) in BOUNDS_US.iter().zip(&self.buckets) {
            below += bucket.load(Ordering::Relaxed);
            let bound = Duration::from_micros(*bound_us).as_secs_f64();
            line(out, &format!("{name}_bucket{{verb=\"{verb}\",le=\"{bound}\"}}"), below);
        }
        line(out, &format!("{name}_bucket{{verb=\"{verb}\",le=\"+Inf\"}}"), count);
        let sum = Duration::from_micros(self.sum_us.load(Ordering::Relaxed)).as_secs_f64();
        line(out, &format!("{name}_sum{{verb=\"{verb}\"}}"), sum);
        line(out, &format!("{name}_count{{verb=\"{verb}\"}}"), count);
    }
}

/// The HELP and TYPE lines of a metric; for the other rooms' metrics too.
pub fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a String takes everything");
}

/// One sample.
pub fn line(out: &mut String, name: &str, value: impl std::fmt::Display) {
    writeln!(out, "{name} {value}").expect("a String takes everything");
}

/// Something that writes its metrics.
pub type Source = Box<dyn Fn(&mut String) + Send + Sync>;

/// Serves `/metrics` until `stop`.
///
/// # Errors
///
/// What the listener says when it breaks.
pub async fn serve(listener: TcpListener, sources: Vec<Source>, stop: CancellationToken) -> std::io::Result<()> {
    let show = |State(sources): State<Arc<Vec<Source>>>| async move {
        let mut text = String::new();
        for source in sources.iter() {
            source(&mut text);
        }
        ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
    };
    let router = Router::new().route("/metrics", get(show)).with_state(Arc::new(sources));
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_its_help_and_buckets_add_up() {
        let metrics = Arc::new(Metrics::default());
        metrics.request(Verb::Get, StatusCode::OK, Duration::from_micros(300));
        metrics.request(Verb::Get, StatusCode::OK, Duration::from_secs(60));
        metrics.request(Verb::Put, StatusCode::CREATED, Duration::from_millis(3));
        let held = metrics.hold(|metrics| &metrics.running);
        let mut text = String::new();
        metrics.write(&mut text);
        assert!(text.contains("agent_http_requests_total{verb=\"get\",status=\"2xx\"} 2\n"));
        assert!(text.contains("_bucket{verb=\"get\",le=\"0.00025\"} 0\n"));
        assert!(text.contains("_bucket{verb=\"get\",le=\"0.0005\"} 1\n"));
        assert!(text.contains("_bucket{verb=\"get\",le=\"5\"} 1\n"));
        assert!(text.contains("_bucket{verb=\"get\",le=\"+Inf\"} 2\n"));
        assert!(text.contains("agent_http_requests_running 1\n"));
        drop(held);
        let mut text = String::new();
        metrics.write(&mut text);
        assert!(text.contains("agent_http_requests_running 0\n"));
        for sample in text.lines().filter(|line| !line.starts_with('#')) {
            let name = sample.split([' ', '{']).next().unwrap();
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(name);
            assert!(text.contains(&format!("# HELP {family} ")), "{name}");
        }
    }
}
