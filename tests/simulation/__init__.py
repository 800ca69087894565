"""The life of jobs in a world where messages are lost, doubled and late, holders freeze and die, and clocks jump.

Supervisors, stores and scripts are the real ones, over a real server; a run is a stand-in that makes the calls of a
real one, between any two of which anything may happen. All chance comes from one seed.
"""
