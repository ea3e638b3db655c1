//! What Prometheus sees of TLS and of who was refused. Shows no name of a token
//! and no address.

use std::fmt;

use flatframe_shared::metrics::expiries;
use flatframe_shared::refusals::Reason;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::server::security::Security;

pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, security: &Security) -> fmt::Result {
    let help = "Connections and calls refused, by reason";
    let mut family = encoder.encode_descriptor("refused", help, None, MetricType::Counter)?;
    for reason in Reason::ALL {
        let labels = [("reason", reason.as_str())];
        ConstCounter::new(security.refusals.count(reason)).encode(family.encode_family(&labels)?)?;
    }
    let tls = security.tls.as_ref();
    let renewals = [("certificates", tls.map(|tls| tls.renewals())), ("tokens", security.authority.renewals())];
    let help = "Times that changed files were read anew, or could not be used";
    let mut family = encoder.encode_descriptor("renewals", help, None, MetricType::Counter)?;
    for (what, (renewed, failed)) in renewals.into_iter().filter_map(|(what, counts)| Some((what, counts?))) {
        for (result, count) in [("renewed", renewed), ("failed", failed)] {
            let labels = [("what", what), ("result", result)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
    }
    expiries(encoder, &tls.map(|tls| tls.expiries()).unwrap_or_default())
}
