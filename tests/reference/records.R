# What the scripts that refit recorded models by glmmTMB share: the records and the data of a folder
# (the first argument, or the current one), and a fit that goes on to the optimum.
options(digits = 15, contrasts = c("contr.treatment", "contr.treatment"))
arguments <- commandArgs(trailingOnly = TRUE)
folder <- if (length(arguments)) arguments[1] else "."
records <- fromJSON(file.path(folder, "models.json"), simplifyVector = FALSE)
names(records) <- vapply(records, `[[`, "", "id")

read_frame <- function(record) {
  factors <- record$factors
  frame <- read.csv(file.path(folder, "data", record$dataset), na.strings = "", check.names = FALSE)
  strings <- read.csv(file.path(folder, "data", record$dataset), na.strings = "",
                      check.names = FALSE, colClasses = "character")
  for (name in names(factors)) frame[[name]] <- factor(strings[[name]], unlist(factors[[name]]))
  frame
}

tight <- glmmTMBControl(optimizer = optim, optArgs = list(method = "BFGS"),
                        optCtrl = list(reltol = 1e-14, maxit = 1000))
