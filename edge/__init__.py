"""edge: a serverless appliance for small Linux boards.

    event → trigger → router → invocation → guest → response → reply

Data flows right, imports point down. A *trigger* (HTTP, MQTT, a timer) turns one protocol into
an invocation of one component; it never touches Wasm. The *router* is pure. The *invocation* owns
a store, an instance, limits and a deadline. *Host interfaces* (WASI, Spin) are what the guest may
call back into.

Two planes. The **data plane** reads one immutable table of live applications. The **control
plane** (sync, deploy, reload) builds a new table and swaps it in one assignment; a running
invocation keeps the one it began with; a bad bundle never replaces a good one.

Where things are, from the top down; each layer imports only from those below it:

    cli           `edge …`, one file per group of verbs
    node          composition root: builds everything; ready, reload, drain
    triggers      http, mqtt, cron: one file (or package) each, ignorant of each other
    registry      OCI values, client, content store, bundles
    fleet         this node and its peers
    invocation    one event, one component: admission, instance, limits, deadline, outcome
    wasi, spin    host interfaces in Python: one interface, one file
    engine        Wasm: component loader, Canonical ABI, fibers, pool, compiled-code cache
    develop       templates of new applications, and building them
    application   what an application is: spin.toml, routes, templates, allowed hosts. Pure
    errors        the exception tree

`config` and `platform` stand beside them and import only `errors`.

One word, one meaning:

    event         something that happened: a request, a message, a tick
    trigger       adapter that turns one protocol into invocations
    route         pattern → component
    application   what one `spin.toml` declares: triggers, components, variables
    component     a named Wasm binary of an application with its grants and limits
    bundle        an application as an OCI artifact
    invocation    one call of one component for one event, with a deadline
    guest, host   code inside, code outside the sandbox
    trap          the guest was stopped by the engine
    node, peer    this machine, another one of its fleet
    swap, drain   make a new table live, finish what is in flight
"""
