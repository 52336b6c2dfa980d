package SyncExt::Month::Traffic;
use strict;
use warnings;
sub new { my ($class, $month) = @_; return bless { month => $month }, $class }
1;
