/* replica.h - an agent that a launcher has started: it dies with the launcher, and tells it when it
 * is ready. In an agent of its own all of this does nothing. */
#ifndef LM_AGENT_REPLICA_H
#define LM_AGENT_REPLICA_H

#define REPLICA_PARENT_VARIABLE "LM_LAUNCHER_PID" // the launcher's process id
#define REPLICA_WORD_FD         3                 // descriptor of a pipe: a byte says "ready"

/* First thing in main(). Ends the process when its launcher is gone already. */
void replica_begin(void);
void replica_say_ready(void);

#endif
