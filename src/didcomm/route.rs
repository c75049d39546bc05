//! Finds where a packed message is sent, and which mediators it passes (DIDComm v2.1 "Routing").

use super::error::Error;
use crate::did::{Document, Resolver, Service, ServiceEndpoint, did_of};

/// The recipient's service that was chosen for a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MessagingService {
    /// The id of the service in the recipient's document.
    pub id: String,
    /// The URI that the packed message must be sent to. If the endpoint in that document is a mediator's DID, this is
    /// the URI in the mediator's document.
    pub service_endpoint: String,
}

/// The route to a recipient.
pub(super) struct Route {
    pub service: MessagingService,
    /// The keys of the mediators for which the message is wrapped. The mediator next to the sender comes first.
    pub routing_keys: Vec<String>,
}

impl Route {
    /// The route through the service `id`, or through the first service that accepts didcomm/v2. `None` if no `id` is
    /// given and the document has no such service. Fails with [`Error::UnusableService`] if the service `id` or the
    /// mediator's service cannot be used.
    pub async fn find(document: &Document, id: Option<&str>, resolver: &dyn Resolver) -> Result<Option<Self>, Error> {
        let unusable = |service: &str, reason| Error::UnusableService {
            did: document.id().to_owned(),
            service: service.to_owned(),
            reason,
        };
        let mut services = document.didcomm_services().filter(|service| id.is_none_or(|id| service.id == id));
        let Some((service, endpoint)) = services.find_map(|service| Some((service, usable_endpoint(service)?))) else {
            return id
                .map_or(Ok(None), |id| Err(unusable(id, "it is absent, or has no endpoint that accepts didcomm/v2")));
        };
        let mut routing_keys = endpoint.routing_keys.clone();
        let mut uri = endpoint.uri.clone();
        if let Some(mediator) = did_of(&endpoint.uri) {
            // Order: the routing keys of the mediator's own service, the mediator, the routing keys of the recipient's
            // service. The mediator's endpoint must be a URL.
            let document = resolver.resolve(mediator).await?;
            let outer = document
                .didcomm_services()
                .find_map(usable_endpoint)
                .ok_or_else(|| unusable(&service.id, "its mediator has no DIDCommMessaging service"))?;
            if did_of(&outer.uri).is_some() {
                return Err(unusable(&service.id, "the endpoint of its mediator is a DID, and must be a URL"));
            }
            let inner = std::mem::replace(&mut routing_keys, outer.routing_keys.clone());
            routing_keys.push(endpoint.uri.clone());
            routing_keys.extend(inner);
            uri.clone_from(&outer.uri);
        }
        let service = MessagingService { id: service.id.clone(), service_endpoint: uri };
        Ok(Some(Self { service, routing_keys }))
    }
}

fn usable_endpoint(service: &Service) -> Option<&ServiceEndpoint> {
    service.endpoints.iter().find(|endpoint| endpoint.accepts_v2())
}
