/* api_tables.h - how the tables of schemas are written. For the files of this folder that have some. */
#ifndef LM_API_API_TABLES_H
#define LM_API_API_TABLES_H

#include "shared/api/api_schema.h"
#include "shared/base/check.h"

#define TEXT_OF(number)            #number
#define TEXT(number)               TEXT_OF(number)

/* Titles give generated clients names for what a union may be. */
#define UNION(variants)            "{'oneOf':[" variants "]}"
#define LIST(title, items, bounds) "{'type':'array','title':'" title "','items':" items bounds "}"
#define REFERENCE(name)            "{'$ref':'#/components/schemas/" name "'}"
#define STRING_TYPE                "{'type':'string','title':'Text'}"
#define TOKEN_TYPE                 "{'type':'integer','minimum':0}"
#define NULL_TYPE                  "{'type':'null'}"
#define OBJECT_TYPE                "{'type':'object','additionalProperties':true}" // with any members

#define FIELDS(list)          \
    {                         \
        list, ARRAY_LEN(list) \
    }

#endif
