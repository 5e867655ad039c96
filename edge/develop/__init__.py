"""What a developer needs before there is anything to run: applications from templates, the tools
that build them, building. Knows nothing of Wasm, nor of how an application is served.
"""
