//! Keeps the last temperature of each room, and says when one is too warm.
use spin_sdk::http::{IntoResponse, Request, Response};
use spin_sdk::{http_component, key_value::Store, variables};

#[http_component]
fn handle(request: Request) -> anyhow::Result<impl IntoResponse> {
    // A message comes as a CloudEvent: a POST with its topic in `ce-subject`.
    match request.header("ce-subject").and_then(|value| value.as_str()) {
        Some(topic) => {
            let room = topic.split('/').nth(1).unwrap_or_default();
            take(room, &String::from_utf8_lossy(request.body()))
        }
        None => show(),
    }
}

/// What is answered is published to `reply_topic`; an empty answer publishes nothing.
fn take(room: &str, reading: &str) -> anyhow::Result<Response> {
    // 4xx is final. After any other failure the message comes again.
    let Ok(temperature) = reading.parse::<f64>() else {
        return Ok(text(400, "not a temperature".to_owned()));
    };
    Store::open_default()?.set(room, reading.as_bytes())?;
    let limit = variables::get("limit")?;
    Ok(if temperature > limit.parse()? {
        text(200, format!("{room}: {reading} is above {limit}"))
    } else {
        text(200, String::new())
    })
}

fn show() -> anyhow::Result<Response> {
    let store = Store::open_default()?;
    let mut page = String::new();
    let mut rooms = store.get_keys()?;
    rooms.sort();
    for room in rooms {
        let reading = store.get(&room)?.unwrap_or_default();
        page += &format!("{room} {}\n", String::from_utf8_lossy(&reading));
    }
    if page.is_empty() {
        page += "no readings yet\n";
    }
    Ok(text(200, page))
}

fn text(status: u16, content: String) -> Response {
    Response::builder().status(status).header("content-type", "text/plain").body(content).build()
}
