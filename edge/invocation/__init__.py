"""One event, one component: admission, instance, limits, deadline, outcome.

Knows host interfaces by their context only, and no protocol but the handler's: HTTP and Wagi.
"""
