//! Answers requests. The SDK: https://docs.rs/spin-sdk
use spin_sdk::http::{IntoResponse, Method, Request, Response};
use spin_sdk::http_component;

#[http_component]
fn handle(request: Request) -> anyhow::Result<impl IntoResponse> {
    let who = match request.method() {
        Method::Post => String::from_utf8_lossy(request.body()).into_owned(),
        _ => request.path().to_owned(),
    };
    Ok(text(200, format!("hello, {who}\n")))
}

fn text(status: u16, content: String) -> Response {
    Response::builder().status(status).header("content-type", "text/plain").body(content).build()
}
