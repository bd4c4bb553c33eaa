/* banned.h - calls that have a better form here; included by tidy as a list and usable as a prefix
 * header. Each line names what to use instead. */
#ifndef LM_BASE_BANNED_H
#define LM_BASE_BANNED_H

#pragma GCC poison strcpy strcat sprintf vsprintf gets strtok // buf_*, snprintf, str_split
#pragma GCC poison atoi atol atof                             // str_to_int, str_to_double
#pragma GCC poison alloca                                     // arena_alloc

#endif
