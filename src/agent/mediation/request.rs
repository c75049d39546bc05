//! Asks a mediator for mediation, in a version that the mediator speaks.

use super::{
    error::MediationError,
    mediator::Mediator,
    session::Session,
    versions::{CoordinationVersion, PickupVersion},
};

/// What a mediator has granted.
pub(super) struct Grant {
    pub coordination: CoordinationVersion,
    pub pickup: PickupVersion,
    /// Not one of them need be a DID that can be used.
    pub routing_dids: Vec<String>,
}

/// Asks for mediation. Mediators do not always disclose what they speak, and what they say to a version that they do not
/// speak has many forms. So the other version is tried after each refusal that is not a `mediate-deny`.
///
/// `granted` is the record of the mediator, if it has granted mediation to the same DID of ours before. Some mediators
/// deny a repeated request.
///
/// # Errors
/// If the mediator does not answer, refuses, or cannot be used.
pub(super) async fn request_mediation(
    session: &mut Session<'_>,
    granted: Option<&Mediator>,
) -> Result<Grant, MediationError> {
    let discloses = session.discover_versions().await?;
    let is_disclosed = discloses == Some(true);
    let answer = match session.request_mediation(is_disclosed).await {
        Err(first @ (MediationError::Denied(_) | MediationError::Unreachable(_))) => {
            let asked = session.coordination;
            session.coordination = match asked {
                CoordinationVersion::V2 => CoordinationVersion::V3,
                CoordinationVersion::V3 => CoordinationVersion::V2,
            };
            match session.request_mediation(false).await {
                Err(MediationError::Unreachable(_)) if discloses == Some(false) => {
                    return Err(MediationError::Unusable(
                        "it does not disclose coordinate-mediation, and does not answer a request for it".to_owned(),
                    ));
                }
                // The refusal of a version that it does not speak says less.
                Err(second) => return Err(if is_disclosed { first } else { second }),
                answer => answer?,
            }
        }
        answer => answer?,
    };
    let (coordination, pickup) = (session.coordination, session.pickup);
    let Some(routing_dids) = answer else { return confirm(session, granted).await };
    let routing_dids = routing_dids.into_iter().filter(|did| did.starts_with("did:")).collect();
    Ok(Grant { coordination, pickup, routing_dids })
}

/// A mediator that denies a request may have granted the same before. Then it still takes keylist updates.
async fn confirm(session: &mut Session<'_>, granted: Option<&Mediator>) -> Result<Grant, MediationError> {
    let Some(granted) = granted else {
        return Err(MediationError::Denied(
            "it answers with mediate-deny. Some mediators deny a DID to which they have granted mediation before: try \
             another DID of ours"
                .to_owned(),
        ));
    };
    session.coordination = granted.coordination;
    if !granted.registered.is_empty() && session.update_keylist(&granted.registered, &[]).await?.0.is_empty() {
        return Err(MediationError::Denied("it answers with mediate-deny, and registers no DID of ours".to_owned()));
    }
    let Mediator { coordination, pickup, routing_dids, .. } = granted.clone();
    Ok(Grant { coordination, pickup, routing_dids })
}
