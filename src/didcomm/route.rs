//! Finds where a packed message is sent, and which mediators it passes (DIDComm v2.1 "Routing").

use super::{error::Error, recipients::agreement_keys};
use crate::did::{Document, Resolver, Service, ServiceEndpoint, did_of};

/// The most routes of one recipient, and the most mediators that are resolved for them. The recipient writes both.
const MAX_ROUTES: usize = 16;
const MAX_MEDIATORS: usize = 4;
/// The most routing keys of a route. Each may be in the document of another server.
const MAX_ROUTING_KEYS: usize = 8;

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

/// A route to a recipient, through one endpoint of its document.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// Where the packed message is sent.
    pub service: MessagingService,
    /// The keys of the mediators for which the message is wrapped. The mediator next to the sender comes first.
    pub routing_keys: Vec<String>,
}

/// The routes to a recipient.
#[derive(Debug, Default)]
pub struct Routes {
    /// The routes for DIDComm v2, in the order of the recipient's document, at most 16.
    pub usable: Vec<Route>,
    /// Why other endpoints for DIDComm v2 cannot be used: a mediator is not resolved, or has no route itself.
    pub unusable: Vec<Error>,
}

impl Routes {
    /// Finds the routes to the owner of a document: through each endpoint of each service that accepts `didcomm/v2`, in
    /// order. An endpoint that is the DID of a mediator stands for the endpoints of the mediator's document, which must
    /// be URLs. At most four mediators are resolved.
    pub async fn find(document: &Document, resolver: &dyn Resolver) -> Self {
        Self::through(document, document.didcomm_services().collect(), resolver).await
    }

    /// Finds the routes through the service `id`.
    ///
    /// # Errors
    /// [`Error::UnusableService`] if the document has no such service with an endpoint for DIDComm v2.
    pub(super) async fn of_service(document: &Document, id: &str, resolver: &dyn Resolver) -> Result<Self, Error> {
        let services = document.didcomm_services().filter(|service| service.id == id).collect();
        let routes = Self::through(document, services, resolver).await;
        match routes.usable.is_empty() && routes.unusable.is_empty() {
            true => Err(unusable(document, id, "it is absent, or has no endpoint that accepts didcomm/v2")),
            false => Ok(routes),
        }
    }

    async fn through<'a>(document: &'a Document, services: Vec<&'a Service>, resolver: &dyn Resolver) -> Self {
        let mut routes = Self::default();
        let mut mediators = 0;
        let mut endpoints: Vec<(&Service, &ServiceEndpoint)> = Vec::new();
        for service in services {
            endpoints.extend(v2_endpoints(service).map(|endpoint| (service, endpoint)));
        }
        for (service, endpoint) in endpoints {
            if routes.usable.len() + routes.unusable.len() >= MAX_ROUTES {
                break;
            }
            let route = |uri: &str, routing_keys| Route {
                service: MessagingService { id: service.id.clone(), service_endpoint: uri.to_owned() },
                routing_keys,
            };
            if endpoint.routing_keys.len() > MAX_ROUTING_KEYS {
                routes.unusable.push(unusable(document, &service.id, "it has more than 8 routing keys"));
                continue;
            }
            let Some(mediator) = did_of(&endpoint.uri) else {
                routes.usable.push(route(&endpoint.uri, endpoint.routing_keys.clone()));
                continue;
            };
            mediators += 1;
            if mediators > MAX_MEDIATORS {
                routes.unusable.push(unusable(document, &service.id, "there are too many mediators before it"));
                continue;
            }
            match outer_endpoints(document, service, mediator, resolver).await {
                Ok(found) => routes.usable.extend(found.iter().take(MAX_ROUTES).map(|outer| {
                    // Order: the routing keys of the mediator's own service, the mediator, the routing keys of the
                    // recipient's service.
                    let keys = outer.routing_keys.iter().chain([&endpoint.uri]).chain(&endpoint.routing_keys);
                    route(&outer.uri, keys.cloned().collect())
                })),
                Err(error) => routes.unusable.push(error),
            }
        }
        routes.usable.truncate(MAX_ROUTES);
        routes
    }

    /// Returns the first route, those to a queue last. `None` if the document names no endpoint for DIDComm v2.
    ///
    /// # Errors
    /// Why the first endpoint cannot be used, if none can.
    pub(super) fn into_first(self) -> Result<Option<Route>, Error> {
        let mut usable = self.usable;
        usable.sort_by_key(Route::is_queue);
        match (usable.into_iter().next(), self.unusable.into_iter().next()) {
            (None, Some(error)) => Err(error),
            (route, _) => Ok(route),
        }
    }
}

impl Route {
    /// Whether the endpoint is the queue of the recipient's mediator or of the sender: the message waits until the
    /// recipient connects (`didcomm:transport/queue`).
    pub fn is_queue(&self) -> bool {
        self.service.service_endpoint == "didcomm:transport/queue"
    }

    /// Checks that the message can be encrypted to the mediators of this route. Uses no private key.
    ///
    /// # Errors
    /// The errors of [`wrap_in_forward`](super::wrap_in_forward) for a routing key that cannot be used.
    pub async fn check(&self, resolver: &dyn Resolver) -> Result<(), Error> {
        for key in &self.routing_keys {
            let did = did_of(key).ok_or_else(|| Error::InvalidKeyId(key.clone()))?;
            agreement_keys(&*resolver.resolve(did).await?, key)?;
        }
        Ok(())
    }
}

/// The endpoints of a mediator that are URLs, at least one.
async fn outer_endpoints(
    document: &Document,
    service: &Service,
    mediator: &str,
    resolver: &dyn Resolver,
) -> Result<Vec<ServiceEndpoint>, Error> {
    let found = resolver.resolve(mediator).await?;
    let endpoints: Vec<&ServiceEndpoint> = found.didcomm_services().flat_map(v2_endpoints).collect();
    if endpoints.is_empty() {
        return Err(unusable(document, &service.id, "its mediator has no DIDCommMessaging service"));
    }
    let is_short = |outer: &&ServiceEndpoint| outer.routing_keys.len() <= MAX_ROUTING_KEYS;
    let endpoints = endpoints.into_iter().filter(is_short);
    let urls: Vec<_> = endpoints.filter(|outer| did_of(&outer.uri).is_none()).cloned().collect();
    match urls.is_empty() {
        true => {
            Err(unusable(document, &service.id, "no endpoint of its mediator is a URL with at most 8 routing keys"))
        }
        false => Ok(urls),
    }
}

fn v2_endpoints(service: &Service) -> impl Iterator<Item = &ServiceEndpoint> {
    service.endpoints.iter().filter(|endpoint| endpoint.accepts_v2())
}

fn unusable(document: &Document, service: &str, reason: &'static str) -> Error {
    Error::UnusableService { did: document.id().to_owned(), service: service.to_owned(), reason }
}
