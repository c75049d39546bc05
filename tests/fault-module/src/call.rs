//! A call: counted, held up, refused, and written down.

use std::{
    sync::{Arc, RwLockReadGuard},
    thread,
};

use cryptoki_sys::*;

use crate::{
    control::{self, GLANCE, Orders},
    counts::Cell,
    function::Function,
    ledger,
    order::{Act, Order},
};

/// What a function is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Module,
    Slot,
    Session(CK_SESSION_HANDLE),
}

/// A call that has begun, and what is ordered for it.
pub(crate) struct Call {
    function: Function,
    /// For the trace.
    pub(crate) mechanism: Option<CK_MECHANISM_TYPE>,
    refused: Option<CK_RV>,
    /// The failure to return though the real function was called.
    failed: Option<CK_RV>,
    orders: Arc<Orders>,
    /// No session is closed under a call.
    _under_way: RwLockReadGuard<'static, ()>,
}

impl Call {
    /// Waits, hangs or crashes, if that is ordered.
    pub(crate) fn begin(function: Function, place: Place) -> Self {
        Cell::Calls(function).count();
        let orders = control::orders();
        let in_session = in_session(function, place);
        let (mut ordered, mut failed) = (None, None);
        for standing in &orders.standing {
            match standing.due(function, in_session) {
                Some(Act::Delay(time)) => thread::sleep(time),
                Some(Act::Hang) => {
                    while control::orders().include(&standing.order) {
                        thread::sleep(GLANCE);
                    }
                }
                Some(Act::Crash) => std::process::abort(),
                Some(Act::Skip) if ordered.is_none() => ordered = Some(CKR_OK),
                Some(Act::Fail(code)) if ordered.is_none() => {
                    Cell::Failed(function).count();
                    // Whoever closes a session has let go of it, and cannot do it again: a leak that is nobody's fault.
                    let closes = matches!(function.name(), "C_CloseSession" | "C_CloseAllSessions");
                    *(if closes { &mut failed } else { &mut ordered }) = Some(code);
                }
                Some(Act::Skip | Act::Fail(_)) | None => {}
            }
        }
        let refused = absent(function, place, &orders).or(ordered);
        Self { function, mechanism: None, refused, failed, orders, _under_way: ledger::under_way() }
    }

    /// The code to return without calling the real function.
    pub(crate) fn refused(&self) -> Option<CK_RV> {
        self.refused
    }

    /// Whether the answer is to be made wrong.
    pub(crate) fn is_wrong(&self) -> bool {
        self.refused.is_none() && self.orders.include(&Order::Wrong(self.function))
    }

    /// Whether the token is away.
    pub(crate) fn is_gone(&self) -> bool {
        self.orders.include(&Order::Gone)
    }

    /// Whether the token's objects are lost to this process.
    pub(crate) fn is_dead(&self) -> bool {
        control::is_dead(&self.orders)
    }

    /// The mechanisms that are claimed.
    pub(crate) fn claims(&self) -> Vec<CK_MECHANISM_TYPE> {
        let claim = |order: &Order| if let Order::Claim(mechanism) = order { Some(*mechanism) } else { None };
        self.orders.standing.iter().filter_map(|standing| claim(&standing.order)).collect()
    }

    /// Writes the call down.
    pub(crate) fn end(self, code: CK_RV) -> CK_RV {
        let code = self.failed.filter(|_| code == CKR_OK).unwrap_or(code);
        control::trace(|| {
            let mechanism = self.mechanism.map_or_else(|| "-".to_owned(), |mechanism| format!("{mechanism:#x}"));
            format!("{} {mechanism} {code:#x}\n", self.function.name())
        });
        code
    }
}

/// Whether `*` means this call: what opens a session or works in one, but what sets a PIN.
fn in_session(function: Function, place: Place) -> bool {
    const OPEN: Function = Function::named("C_OpenSession");
    match place {
        Place::Session(_) => !matches!(function.name(), "C_InitPIN" | "C_SetPIN"),
        Place::Slot => function == OPEN,
        Place::Module => false,
    }
}

/// The code of a call that a token which is away, or was, or is dead, does not answer.
fn absent(function: Function, place: Place, orders: &Orders) -> Option<CK_RV> {
    if orders.include(&Order::Gone) {
        ledger::lose_sessions();
        return match place {
            Place::Module => None,
            Place::Slot if function.name() == "C_GetSlotInfo" => None,
            Place::Slot => Some(CKR_TOKEN_NOT_PRESENT),
            Place::Session(_) => Some(CKR_DEVICE_REMOVED),
        };
    }
    if let Place::Session(session) = place
        && ledger::is_lost(session)
    {
        return Some(CKR_SESSION_HANDLE_INVALID);
    }
    if !control::is_dead(orders) {
        return None;
    }
    // As SoftHSM 2.6.1 was seen to do it.
    match function.name() {
        "C_GetTokenInfo" | "C_Login" => Some(CKR_GENERAL_ERROR),
        "C_SignInit"
        | "C_DecryptInit"
        | "C_DeriveKey"
        | "C_GetAttributeValue"
        | "C_SetAttributeValue"
        | "C_GetObjectSize"
        | "C_CopyObject" => Some(CKR_OBJECT_HANDLE_INVALID),
        _ => None,
    }
}
