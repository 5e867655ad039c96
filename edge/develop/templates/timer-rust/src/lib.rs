//! Counts its ticks.
use spin_sdk::http::{IntoResponse, Request, Response};
use spin_sdk::{http_component, key_value::Store};

#[http_component]
fn handle(request: Request) -> anyhow::Result<impl IntoResponse> {
    let store = Store::open_default()?;
    let stored = store.get("ticks")?.unwrap_or_default();
    let ticks: u64 = String::from_utf8_lossy(&stored).parse().unwrap_or(0);
    // A tick comes as a CloudEvent: a POST with its time in `ce-time`.
    let page = if request.header("ce-time").is_some() {
        store.set("ticks", (ticks + 1).to_string().as_bytes())?;
        String::new()
    } else {
        format!("ticks: {ticks}\n")
    };
    Ok(Response::builder().status(200).header("content-type", "text/plain").body(page).build())
}
