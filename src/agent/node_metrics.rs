//! The metrics of an agent that shares its store with others. Another agent has none of them.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{gauge::ConstGauge, info::Info},
};

use super::store::StoreNode;

/// The nodes of the store.
#[derive(Debug, Default)]
pub struct NodeMetrics(Mutex<Vec<StoreNode>>);

impl NodeMetrics {
    /// Replaces the nodes. None is shown if this one is not among them.
    pub fn set(&self, nodes: Vec<StoreNode>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
    }
}

impl Collector for NodeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(this) = nodes.iter().find(|node| node.is_this) else { return Ok(()) };
        let info = Info::new([("node", this.name.clone()), ("version", this.version.clone())]);
        info.encode(encoder.encode_descriptor("node", "This node", None, info.metric_type())?)?;
        let leads = ConstGauge::new(i64::from(this.leads));
        let help = "1 for the node that does what only one of them may do, else 0";
        leads.encode(encoder.encode_descriptor("leads", help, None, leads.metric_type())?)?;
        let count = ConstGauge::new(i64::try_from(nodes.len()).unwrap_or(i64::MAX));
        count.encode(encoder.encode_descriptor("nodes", "Nodes that share the store", None, count.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;

    #[test]
    fn a_store_without_nodes_has_no_such_metrics() {
        let mut registry = Registry::with_prefix("claviger");
        let metrics = Arc::<NodeMetrics>::default();
        registry.register_collector(Box::new(metrics.clone()));
        let rendered = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
        };
        assert!(rendered().is_empty());
        let node = |number, name: &str, is_this, leads| StoreNode {
            number,
            name: name.to_owned(),
            version: "1.2.3".to_owned(),
            since: 0,
            is_this,
            leads,
        };
        let other = node(1, "a", false, true);
        metrics.set(vec![other.clone(), node(2, "b", true, false)]);
        let expected = ["claviger_node_info{node=\"b\",version=\"1.2.3\"} 1", "claviger_leads 0", "claviger_nodes 2"];
        assert_eq!(rendered(), expected);
        metrics.set(vec![other]);
        assert!(rendered().is_empty(), "this node has not joined again yet");
    }
}
