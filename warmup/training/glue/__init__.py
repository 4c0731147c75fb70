"""The GLUE benchmark (Wang et al. 2018, arXiv:1804.07461) as one command: see launch/glue.sh.

tasks.py has the facts of the nine tasks; convert.py makes one format of GLUE's files and the hub's; suite.py trains and
predicts; results.py makes the table and what GLUE's server takes.
"""
