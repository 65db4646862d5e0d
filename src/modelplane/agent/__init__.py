"""The agent: runs model servers, gateways and jobs on one node and reports what they do.

`agent.Agent` puts the parts together; wiring builds it. It speaks to the control plane through
`control_plane.ControlPlane` only, and goes on with what it knows while there is none.
"""
